package node_test

import (
	"crypto/tls"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/nodetest"
	"github.com/keycustodian/keycustodian/transport"
)

// A member that was removed while a node was away may find that node before the
// node has caught up. What it got there must not outlive that.
func TestFormerMembersConnectionIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 4, nodetest.Options{Blank: true})
		away, former := c.Members[2], c.Members[3]
		id, identity := former.ID(), identityOf(t, former)
		away.Crash()
		remove(t, c, former)
		for _, m := range c.Members[:2] {
			c.Network.Partition(away.Host, m.Host)
		}
		away.Start()
		conn := speakRaft(t, c, former, identity, away)
		if !isOpen(conn) {
			t.Fatal("a node that knows of no removal turned a member away: the test shows nothing")
		}
		c.Network.HealAll()
		c.Eventually("the node has caught up", func() bool {
			_, removed := away.View().Removed(id)
			return removed
		})
		time.Sleep(5 * time.Second)
		if isOpen(conn) {
			t.Error("a removed member may go on speaking Raft")
		}
	})
}

// Whom the answer to a join named is trusted until the node knows better, and
// not again at every start.
func TestFormerSponsorIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 4, nodetest.Options{Blank: true})
		sponsor, joined := c.Members[1], c.Members[3]
		fingerprint := sponsor.Fingerprint()
		remove(t, c, sponsor)
		c.Eventually("the removal is known", func() bool {
			_, still := joined.View().MemberByFingerprint(fingerprint)
			return !still
		})
		time.Sleep(5 * time.Second)
		for range 2 {
			joined.Crash()
			for _, m := range c.Members {
				c.Network.Partition(joined.Host, m.Host)
			}
			joined.Start()
			if joined.LetsIn(fingerprint) {
				t.Error("a removed sponsor is let in after a restart")
			}
			c.Network.HealAll()
		}
	})
}

// remove removes a member at an operator's word, and ends it.
func remove(t *testing.T, c *nodetest.Cluster, former *nodetest.Member) {
	t.Helper()
	by := c.Members[0]
	if err := by.ProposeAs(t.Context(), c.Operators[0].Public().Fingerprint(), &fsm.MemberRemove{Node: former.ID()}); err != nil {
		t.Fatal(err)
	}
	former.Close()
}

func identityOf(t *testing.T, m *nodetest.Member) *transport.Identity {
	t.Helper()
	identity, err := m.Identity()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// speakRaft opens a Raft stream in a member's name.
func speakRaft(t *testing.T, c *nodetest.Cluster, from *nodetest.Member, as *transport.Identity, to *nodetest.Member) *tls.Conn {
	t.Helper()
	raw, err := c.Network.Host(from.Host).Dial(t.Context(), to.Addr())
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{as.Certificate()}, NextProtos: []string{"kc-raft/1"}, InsecureSkipVerify: true,
	})
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Read(make([]byte, 1)); err != nil { // by which it is let in
		t.Logf("%s does not let %s in: %v", to.Name, from.Name, err)
	}
	return conn
}

// isOpen tells whether the other side has closed a connection on which it has
// nothing to say.
func isOpen(conn *tls.Conn) bool {
	conn.SetReadDeadline(time.Now().Add(time.Second))
	_, err := conn.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}
