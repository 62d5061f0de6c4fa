package node_test

import (
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A copy of a data folder that is started beside the running node is refused before
// it votes, wherever it runs, and the node goes on.
func TestACopyBesideTheRunningNodeIsRefused(t *testing.T) {
	for _, c := range []struct {
		name     string
		addr     string // the copy's
		peersSay bool   // the copy cannot reach the node
	}{
		{"at another port", "10.0.0.2:7500", false},
		{"on another machine", "10.0.0.99:7400", false},
		{"on a machine that does not reach the node", "10.0.0.99:7400", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := nodetest.Start(t, 3)
				m := cluster.Members[1]
				host, _, err := net.SplitHostPort(c.addr)
				if err != nil {
					t.Fatal(err)
				}
				config := m.Config
				config.Memory, config.Listen, config.Network = node.CopyMemory(t, m.Config.Memory), c.addr, cluster.Network.Host(host)
				config.Advertise = ""
				if c.peersSay {
					cluster.Network.Partition(host, m.Host)
				}
				opened, err := node.Open(t.Context(), config)
				var refused *node.RunningTwiceError
				if !errors.As(err, &refused) {
					if err == nil {
						opened.Close(t.Context())
					}
					t.Fatalf("the copy started: %v", err)
				}
				said := slices.ContainsFunc(cluster.Members, func(o *nodetest.Member) bool { return o != m && o.Addr() == refused.Peer })
				if refused.Addr != m.Addr() || said != c.peersSay {
					t.Errorf("it does not say who answers where: %+v", refused)
				}
				time.Sleep(10 * time.Second)
				makeKeys(t, m, "k", 1)
				running(t, cluster)
			})
		})
	}
}

// A node that was killed is not refused for what it was: at its address, and at
// another one, nobody answers as it any more.
func TestAKilledNodeStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := nodetest.Start(t, 3)
		m := cluster.Follower()
		m.Restart()
		m.Crash()
		cluster.Network.Hang(m.Host) // the machine is off
		m.Host = "10.0.0.99"
		m.Config.Listen, m.Config.Advertise, m.Config.Network = m.Host+":7400", "", cluster.Network.Host(m.Host)
		m.Start()
		cluster.Eventually("the others know its new address", func() bool {
			row, _ := cluster.Leader().View().Member(m.ID())
			return row.Addr == m.Addr()
		})
		time.Sleep(10 * time.Second)
		running(t, cluster)
	})
}
