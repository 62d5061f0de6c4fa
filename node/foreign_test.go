package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A node takes nobody else's log or snapshot for its own, also not where all of it
// is whole.
func TestAForeignLogIsRefused(t *testing.T) {
	ours := nodetest.StartWith(t, 2, nodetest.Options{Dir: t.TempDir(), Blank: true})
	theirs := nodetest.StartWith(t, 1, nodetest.Options{Dir: t.TempDir(), Blank: true})
	m, sister, stranger := ours.Members[1], ours.Members[0], theirs.Members[0]
	cluster := m.Cluster().String()
	for _, one := range []*nodetest.Member{m, sister, stranger} {
		if err := one.TakeSnapshot(); err != nil {
			t.Fatal(err)
		}
		one.Close()
	}
	raft := filepath.Join(m.Config.Dir, "raft")
	own := filepath.Join(t.TempDir(), "own")
	for name, put := range map[string]func() error{
		"of another cluster": func() error { return os.CopyFS(raft, os.DirFS(filepath.Join(stranger.Config.Dir, "raft"))) },
		"of another member":  func() error { return os.CopyFS(raft, os.DirFS(filepath.Join(sister.Config.Dir, "raft"))) },
		"snapshot only": func() error {
			if err := os.CopyFS(raft, os.DirFS(own)); err != nil {
				return err
			}
			if err := os.RemoveAll(filepath.Join(raft, "snapshots")); err != nil {
				return err
			}
			return os.CopyFS(filepath.Join(raft, "snapshots"), os.DirFS(filepath.Join(stranger.Config.Dir, "raft", "snapshots")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.Rename(raft, own); err != nil {
				t.Fatal(err)
			}
			if err := put(); err != nil {
				t.Fatal(err)
			}
			n, err := node.Open(t.Context(), m.Config)
			var foreign *node.ForeignLogError
			if !errors.As(err, &foreign) {
				if err == nil {
					n.Close(t.Context())
				}
				t.Errorf("started with a log %s: %v", name, err)
			} else if !strings.Contains(err.Error(), cluster) || !strings.Contains(err.Error(), "put this node's own back") {
				t.Errorf("%v", err)
			}
			if err := errors.Join(os.RemoveAll(raft), os.Rename(own, raft)); err != nil {
				t.Fatal(err)
			}
		})
	}
	m.Start()
	sister.Start()
	ours.Leader()
}
