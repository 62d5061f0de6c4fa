package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/transport"
)

func echo(_ context.Context, from transport.Fingerprint, body []byte) ([]byte, error) {
	return append(from[:], body...), nil
}

func TestCallTellsWhoCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2")
		r.nodes[1].Peers().Handle("echo", echo)
		answer, err := r.nodes[0].Peers().Call(t.Context(), r.peer(1), "echo", []byte("hello"))
		want := r.nodes[0].Fingerprint()
		if err != nil || !bytes.Equal(answer, append(want[:], "hello"...)) {
			t.Fatalf("answer %q, %v", answer, err)
		}
	})
}

// TestCallAtIsAnsweredAtItsAddress: two processes that have one key are told apart by
// where they are, and a pooled connection to one is not asked in the other's place.
func TestCallAtIsAnsweredAtItsAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2")
		r.start("10.0.0.3", transport.Config{Identity: r.identities[1]})
		for i, node := range r.nodes {
			node.Peers().Handle("where", func(context.Context, transport.Fingerprint, []byte) ([]byte, error) {
				return []byte(r.hosts[i]), nil
			})
		}
		for range 2 {
			if answer, err := r.nodes[0].Peers().Call(t.Context(), r.peer(1), "where", nil); err != nil || string(answer) != r.hosts[1] {
				t.Fatalf("answer %q, %v", answer, err)
			}
			for i := range r.nodes { // itself too
				if answer, err := r.nodes[0].Peers().CallAt(t.Context(), r.peer(i), "where", nil); err != nil || string(answer) != r.hosts[i] {
					t.Errorf("at %s: answer %q, %v", r.hosts[i], answer, err)
				}
			}
		}
		synctest.Wait()
		if n := r.network.Connections("10.0.0.1", "10.0.0.3"); n != 0 {
			t.Errorf("%d connections are left of calls that had their own", n)
		}
	})
}

func TestManyCallsShareOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2")
		started, release := make(chan struct{}), make(chan struct{})
		r.nodes[1].Peers().Handle("wait", func(ctx context.Context, _ transport.Fingerprint, body []byte) ([]byte, error) {
			started <- struct{}{}
			<-release
			return body, nil
		})
		if _, err := r.nodes[0].Peers().Call(t.Context(), r.peer(1), "absent", nil); code(err) != transport.CodeUnknownMethod {
			t.Fatal(err)
		}
		var calls sync.WaitGroup
		for i := range 50 {
			calls.Go(func() {
				body := fmt.Append(nil, i)
				answer, err := r.nodes[0].Peers().Call(t.Context(), r.peer(1), "wait", body)
				if err != nil || !bytes.Equal(answer, body) {
					t.Errorf("call %d: %q, %v", i, answer, err)
				}
			})
		}
		for range 50 {
			<-started
		}
		if n := r.network.Connections("10.0.0.1", "10.0.0.2"); n != 1 {
			t.Errorf("%d connections for 50 calls, want 1", n)
		}
		close(release)
		calls.Wait()
	})
}

type codedError struct{}

func (codedError) Error() string     { return "the ceremony has expired" }
func (codedError) ErrorCode() string { return "ceremony-expired" }

func TestErrorsKeepTheirCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2")
		for method, cause := range map[string]error{
			"own":   &transport.RemoteError{Code: "no-share", Message: "no share of epoch 3"},
			"coded": fmt.Errorf("release: %w", codedError{}),
			"plain": errors.New("disk full"),
			"wild":  &transport.RemoteError{Code: "Not A Code", Message: string(bytes.Repeat([]byte{0xff}, 5000))},
		} {
			r.nodes[1].Peers().Handle(method, func(context.Context, transport.Fingerprint, []byte) ([]byte, error) { return nil, cause })
		}
		for method, want := range map[string]string{
			"own": "no-share", "coded": "ceremony-expired", "plain": "internal", "wild": "internal", "absent": "unknown-method",
		} {
			_, err := r.nodes[0].Peers().Call(t.Context(), r.peer(1), method, nil)
			var remote *transport.RemoteError
			if !errors.As(err, &remote) || remote.Code != want {
				t.Errorf("%s: %v, want code %s", method, err, want)
			}
		}
	})
}

func TestSizesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2")
		r.nodes[1].Peers().Handle("size", func(_ context.Context, _ transport.Fingerprint, body []byte) ([]byte, error) {
			return fmt.Append(nil, len(body)), nil
		})
		r.nodes[1].Peers().Handle("big", func(context.Context, transport.Fingerprint, []byte) ([]byte, error) {
			return make([]byte, transport.MaxBody+1), nil
		})
		r.nodes[1].Peers().Handle("largest", func(context.Context, transport.Fingerprint, []byte) ([]byte, error) {
			return make([]byte, transport.MaxBody), nil
		})
		call := r.nodes[0].Peers().Call
		if answer, err := call(t.Context(), r.peer(1), "size", make([]byte, transport.MaxBody)); err != nil || string(answer) != "1048576" {
			t.Errorf("1 MiB: %q, %v", answer, err)
		}
		if answer, err := call(t.Context(), r.peer(1), "largest", nil); err != nil || len(answer) != transport.MaxBody {
			t.Errorf("1 MiB answer: %d bytes, %v", len(answer), err)
		}
		if _, err := call(t.Context(), r.peer(1), "size", make([]byte, transport.MaxBody+1)); !errors.Is(err, transport.ErrTooLarge) {
			t.Errorf("over 1 MiB: %v", err)
		}
		var remote *transport.RemoteError
		if _, err := call(t.Context(), r.peer(1), "big", nil); !errors.As(err, &remote) || remote.Code != transport.CodeTooLarge {
			t.Errorf("answer over 1 MiB: %v", err)
		}
	})
}

// A host that falls silent closes nothing. Calls that wait for it end within
// seconds, and the next one finds it again by a new connection.
func TestSilentPeerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2")
		r.nodes[1].Peers().Handle("echo", echo)
		call := func(ctx context.Context) error {
			_, err := r.nodes[0].Peers().Call(ctx, r.peer(1), "echo", nil)
			return err
		}
		if err := call(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.network.Hang("10.0.0.2")
		start := time.Now()
		if err := call(t.Context()); err == nil {
			t.Fatal("a silent host answered")
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("noticed after %v", took)
		}
		time.Sleep(10 * time.Second)
		if n := r.network.Connections("10.0.0.1", "10.0.0.2"); n != 0 {
			t.Errorf("%d dead connections kept", n)
		}
		r.network.Resume("10.0.0.2")
		if err := call(t.Context()); err != nil {
			t.Errorf("after it came back: %v", err)
		}
	})
}

func TestCallEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2")
		ended := make(chan error, 1)
		r.nodes[1].Peers().Handle("wait", func(ctx context.Context, _ transport.Fingerprint, _ []byte) ([]byte, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.nodes[0].Peers().Call(ctx, r.peer(1), "wait", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("call: %v", err)
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the handler was not told: %v", err)
		}
	})
}

func TestMembershipIsAskedAtEveryRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2")
		// The two nodes disagree: node 1 has not heard yet that it is out.
		away := newMembers()
		away.add(r.nodes[1].Fingerprint(), r.addrs[1])
		stale, err := transport.Listen(transport.Config{
			Identity: r.identities[0], Network: r.network.Host("10.0.0.9"), Listen: "10.0.0.9:7400", Directory: away,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stale.Close()
		r.nodes[1].Peers().Handle("echo", echo)
		if _, err := stale.Peers().Call(t.Context(), r.peer(1), "echo", nil); err != nil {
			t.Fatal(err)
		}
		r.members.remove(r.nodes[0].Fingerprint()) // and no Cut: the connection lives
		var remote *transport.RemoteError
		if _, err := stale.Peers().Call(t.Context(), r.peer(1), "echo", nil); !errors.As(err, &remote) || remote.Code != transport.CodeNotMember {
			t.Errorf("a removed member was answered: %v", err)
		}
		if _, err := r.nodes[1].Peers().Call(t.Context(), r.peer(0), "echo", nil); !errors.Is(err, transport.ErrNotMember) {
			t.Errorf("a removed member was called: %v", err)
		}
	})
}

func TestWrongKeyAtAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2", "10.0.0.3")
		r.nodes[2].Peers().Handle("echo", echo)
		wrong := transport.Peer{Fingerprint: r.nodes[1].Fingerprint(), Addr: r.addrs[2]}
		_, err := r.nodes[0].Peers().Call(t.Context(), wrong, "echo", nil)
		var mismatch *transport.FingerprintError
		if !errors.As(err, &mismatch) || mismatch.Want != wrong.Fingerprint || mismatch.Got != r.nodes[2].Fingerprint() {
			t.Errorf("called the wrong node: %v", err)
		}
		// The same for Raft, which knows addresses only.
		r.members.add(r.nodes[1].Fingerprint(), r.addrs[2])
		if _, err := r.nodes[0].Raft().Dial("10.0.0.3:7400", time.Second); !errors.As(err, &mismatch) {
			t.Errorf("raft dialled the wrong node: %v", err)
		}
		if _, err := r.nodes[0].Raft().Dial("10.0.0.4:7400", time.Second); !errors.Is(err, transport.ErrNotMember) {
			t.Errorf("raft dialled an address of nobody: %v", err)
		}
	})
}

func TestCloseEndsHandlersAndCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "10.0.0.1", "10.0.0.2")
		started := make(chan struct{})
		r.nodes[1].Peers().Handle("wait", func(ctx context.Context, _ transport.Fingerprint, _ []byte) ([]byte, error) {
			close(started)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		called := make(chan error, 1)
		go func() {
			_, err := r.nodes[0].Peers().Call(t.Context(), r.peer(1), "wait", nil)
			called <- err
		}()
		<-started
		r.nodes[1].Close()
		if err := <-called; err == nil {
			t.Error("a closed node answered")
		}
		r.nodes[0].Close()
		if _, err := r.nodes[0].Peers().Call(t.Context(), r.peer(1), "wait", nil); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("call on a closed server: %v", err)
		}
	})
}
