package node

import (
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestAPipelineGoesOnAfterARefusal: Raft takes answers from a pipeline up to the
// first refusal, and may have sent more by then. A sender that waits for somebody to
// take their answers would wait for ever, and the follower got no more entries.
func TestAPipelineGoesOnAfterARefusal(t *testing.T) {
	leader, follower := loopback(t), loopback(t)
	go func() {
		for rpc := range follower.Consumer() {
			rpc.Respond(&raft.AppendEntriesResponse{Success: false}, nil)
		}
	}()
	pipeline, err := newAckedTransport(leader, nil).AppendEntriesPipeline("follower", follower.LocalAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer pipeline.Close()
	sent := make(chan error)
	send := func() {
		_, err := pipeline.AppendEntries(&raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{})
		sent <- err
	}
	go send()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if answer := <-pipeline.Consumer(); answer.Response().Success {
		t.Fatal("the follower did not refuse")
	}
	for i := range 5 {
		go send()
		select {
		case err := <-sent:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("request %d after the refusal is not sent", i+1)
		}
	}
}

func loopback(t *testing.T) *raft.NetworkTransport {
	t.Helper()
	carrier, err := raft.NewTCPTransport("127.0.0.1:0", nil, 2, 10*time.Second, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { carrier.Close() })
	return carrier
}
