package node_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// A node that lacks the file that says who it is, or the one that says whom it
// believes, does not start as somebody else or as one who believes nobody. It
// names the file and the way out, changes nothing, and starts once it is back.
func TestAMissingFileRefusesTheStart(t *testing.T) {
	c := nodetest.StartWith(t, 1, nodetest.Options{Dir: t.TempDir()})
	m := c.Members[0]
	id := m.ID()
	for _, name := range []string{"identity", "pins"} {
		m.Close()
		path := filepath.Join(m.Config.Dir, name)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		n, err := node.Open(t.Context(), m.Config)
		if err == nil {
			n.Close(t.Context())
			t.Fatalf("without %q the node started", name)
		}
		if !strings.Contains(err.Error(), `"`+name+`" is missing`) || !strings.Contains(err.Error(), "put it back, or remove this node") {
			t.Errorf("without %q: %v", name, err)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("another %q was written: %v", name, err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		m.Start()
		c.Leader()
	}
	if m.ID() != id {
		t.Error("it became another node")
	}
}

// What a node remembers of the members, and of those who let it in, is of use at
// a start and nothing else depends on it: damaged, it is left aside.
func TestADamagedMemoryOfTheMembersIsLeftAside(t *testing.T) {
	c := nodetest.StartWith(t, 1, nodetest.Options{Dir: t.TempDir()})
	m := c.Members[0]
	path := filepath.Join(m.Config.Dir, "members")
	c.Eventually("the members are written down", func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
	m.Close()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{"members": content[:len(content)/2], "sponsors": []byte("[{")} {
		if err := os.WriteFile(filepath.Join(m.Config.Dir, name), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.Start()
}

// A node whose data folder is not mounted has an empty one, and would be a new
// node with an old device. It says so before anybody lets it join.
func TestAnEmptyFolderBesideAUsedDeviceIsTold(t *testing.T) {
	c := nodetest.Start(t, 1)
	m := c.Members[0]
	m.Close()
	folder := m.Config.Memory
	m.Config.Memory = &node.Memory{}
	m.Start()
	if missing := m.StatusOnSocket(t.Context()).Node.Missing; !strings.Contains(missing, "in no cluster") || !strings.Contains(missing, "not mounted") {
		t.Errorf("it says %q", missing)
	}
	m.Close()
	m.Config.Memory = folder
	m.Start()
	c.Leader()
}
