package transport_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"github.com/keycustodian/keycustodian/transport"
)

// pair connects host a to host b and returns both ends.
func pair(t testing.TB, network *transport.Memory, a, b string) (near, far net.Conn, stop func()) {
	t.Helper()
	l, err := network.Host(b).Listen(b + ":0")
	if err != nil {
		t.Fatal(err)
	}
	near, err = network.Host(a).Dial(context.Background(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return near, far, func() { near.Close(); far.Close(); l.Close() }
}

// The connections behave as net.Conn must: x/net's own suite says so.
func TestMemoryConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c1, c2, stop = pair(t, transport.NewMemory(), "a", "b")
		return c1, c2, stop, nil
	})
}

func TestMemoryPartitionHoldsBytesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := transport.NewMemory()
		near, far, stop := pair(t, network, "a", "b")
		defer stop()
		network.PartitionOneWay("a", "b")
		near.Write([]byte("later"))
		far.Write([]byte("now"))
		buffer := make([]byte, 16)
		if n, err := near.Read(buffer); err != nil || string(buffer[:n]) != "now" {
			t.Errorf("the open direction: %q, %v", buffer[:n], err)
		}
		far.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := far.Read(buffer); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the cut direction: %v", err)
		}
		far.SetReadDeadline(time.Time{})
		near.Close() // its end of stream is held back too
		time.AfterFunc(time.Minute, func() { network.Heal("a", "b") })
		if got, err := io.ReadAll(far); err != nil || string(got) != "later" {
			t.Errorf("after healing: %q, %v", got, err)
		}
	})
}

func TestMemoryDialWaitsForTheNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := transport.NewMemory()
		l, err := network.Host("b").Listen("b:1")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		dial := func(wait time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			conn, err := network.Host("a").Dial(ctx, "b:1")
			if err == nil {
				conn.Close()
			}
			return err
		}
		for name, cut := range map[string]func(){
			"partition": func() { network.Partition("a", "b") },
			"there":     func() { network.PartitionOneWay("a", "b") },
			"back":      func() { network.PartitionOneWay("b", "a") },
			"hang":      func() { network.Hang("b") },
			"delay":     func() { network.Delay("a", "b", time.Minute) },
		} {
			cut()
			if err := dial(30 * time.Second); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			time.AfterFunc(10*time.Second, func() { network.HealAll(); network.Delay("a", "b", 0) })
			if err := dial(10 * time.Minute); err != nil {
				t.Errorf("%s, healed: %v", name, err)
			}
			time.Sleep(time.Minute)
		}
		if _, err := network.Host("a").Dial(t.Context(), "b:2"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
	})
}

func TestMemoryDelayKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := transport.NewMemory()
		near, far, stop := pair(t, network, "a", "b")
		defer stop()
		network.Delay("a", "b", time.Second)
		start := time.Now()
		near.Write([]byte("slow "))
		network.Delay("a", "b", time.Millisecond)
		near.Write([]byte("fast"))
		got := make([]byte, 9)
		if _, err := io.ReadFull(far, got); err != nil || string(got) != "slow fast" || time.Since(start) != time.Second {
			t.Errorf("%q after %v, %v", got, time.Since(start), err)
		}
	})
}

func TestMemoryDropAndCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := transport.NewMemory()
		near, far, stop := pair(t, network, "a", "b")
		defer stop()
		network.Drop("b", "a")
		for _, conn := range []net.Conn{near, far} {
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("dropped: %v", err)
			}
		}
		l, err := network.Host("b").Listen("b:1")
		if err != nil {
			t.Fatal(err)
		}
		network.Crash("b")
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("crashed: %v", err)
		}
		if _, err := network.Host("b").Listen("b:1"); err != nil {
			t.Errorf("the port is not free again: %v", err)
		}
	})
}

// A writer to a host that does not read waits, as TCP's would.
func TestMemoryWriterWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := transport.NewMemory()
		near, far, stop := pair(t, network, "a", "b")
		defer stop()
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		near.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := near.Write(big)
		if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == len(big) {
			t.Errorf("wrote %d of %d, %v", n, len(big), err)
		}
		near.SetWriteDeadline(time.Time{})
		go func() { near.Write(big[n:]); near.Close() }()
		if got, err := io.ReadAll(far); err != nil || !bytes.Equal(got, big) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}
