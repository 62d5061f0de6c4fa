//go:build faults

package node

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/hashicorp/raft"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// A node of this build obeys the environment, so that a test can have a process
// end at an instant of DESIGN.md's table of crash points:
//
//	KEYCUSTODIAN_CRASH=FILE
//
// names the file of an order: "COUNT SIGNAL POINT". The process removes it and sends
// itself the signal (9: it dies; 19: it stands still) when it gets to the point for
// the COUNT'th time since the order was first seen. Points are those of
// ceremonyRoom.at, those of reach, and
//
//	before write FILE, after write FILE    of the data folder, likewise append and remove
//	after Generate, after Unwrap,
//	after Delete                           of the device
//	appended COMMAND                       to the log here, not known to be committed
//	applied COMMAND                        committed, and in the state here
const crashOrder = "KEYCUSTODIAN_CRASH"

var orders struct {
	sync.Mutex
	last string // the order that is counted for
	left int
}

// reach ends the process if its order is to die here.
func reach(point string) {
	file := os.Getenv(crashOrder)
	if file == "" {
		return
	}
	orders.Lock()
	defer orders.Unlock()
	order, err := os.ReadFile(file)
	if err != nil {
		return // nothing is ordered
	}
	var count, signal int
	if n, _ := fmt.Sscanf(string(order), "%d %d", &count, &signal); n != 2 || string(order) != fmt.Sprintf("%d %d %s", count, signal, point) {
		return
	}
	if orders.last != string(order) {
		orders.last, orders.left = string(order), count
	}
	if orders.left--; orders.left > 0 {
		return
	}
	orders.last = ""
	if os.Remove(file) != nil {
		return
	}
	syscall.Kill(os.Getpid(), syscall.Signal(signal))
	if syscall.Signal(signal) == syscall.SIGKILL {
		select {} // nothing happens after the instant
	}
}

// patch puts the wrappers in the place of what the node was configured with.
func (n *Node) patch() {
	n.config.Now = shiftedClock(n.config.Now)
	n.files = mortalFiles{n.files}
	if open := n.config.OpenDevice; open != nil {
		n.config.OpenDevice = func(ctx context.Context, seal *hsm.Secret) (hsm.Token, error) {
			token, err := open(ctx, seal)
			if err == nil {
				token.Device = mortalDevice{token.Device}
			}
			return token, err
		}
	}
}

func (c *raftConfig) patch(stores *raftStores) {
	c.Machine = mortalMachine{c.Machine}
	c.oftenSnapshot()
	stores.tear()
	stores.log.LogStore = mortalStore{stores.log.LogStore}
}

// mortalFiles can be killed at every change.
type mortalFiles struct{ files }

func (f mortalFiles) change(what, name string, do func() error) error {
	reach("before " + what + " " + name)
	err := do()
	reach("after " + what + " " + name)
	return err
}

func (f mortalFiles) write(name string, content []byte) error {
	return f.change("write", name, func() error { return f.files.write(name, content) })
}

func (f mortalFiles) append(name string, content []byte) error {
	return f.change("append", name, func() error { return f.files.append(name, content) })
}

func (f mortalFiles) remove(name string) error {
	return f.change("remove", name, func() error { return f.files.remove(name) })
}

// mortalDevice can be killed once it holds another set of keys.
type mortalDevice struct{ hsm.Device }

func (d mortalDevice) Generate(ctx context.Context, slot hsm.Slot, keyType hsm.KeyType, attributes hsm.Attributes) (hsm.Object, error) {
	defer reach("after Generate")
	return d.Device.Generate(ctx, slot, keyType, attributes)
}

func (d mortalDevice) Unwrap(ctx context.Context, slot hsm.Slot, blob []byte, attributes hsm.Attributes) (hsm.Object, error) {
	defer reach("after Unwrap")
	return d.Device.Unwrap(ctx, slot, blob, attributes)
}

func (d mortalDevice) Delete(ctx context.Context, slot hsm.Slot) error {
	defer reach("after Delete")
	return d.Device.Delete(ctx, slot)
}

// mortalStore can be killed when an entry is on this node's disk.
type mortalStore struct{ raft.LogStore }

func (s mortalStore) StoreLog(entry *raft.Log) error { return s.StoreLogs([]*raft.Log{entry}) }

func (s mortalStore) StoreLogs(entries []*raft.Log) error {
	err := s.LogStore.StoreLogs(entries)
	for _, entry := range entries {
		if entry.Type == raft.LogCommand {
			reach("appended " + commandName(entry.Data))
		}
	}
	return err
}

// mortalMachine can be killed when an entry is in this node's state.
type mortalMachine struct{ machine }

func (m mortalMachine) Apply(index uint64, command []byte) (any, error) {
	result, fatal := m.machine.Apply(index, command)
	reach("applied " + commandName(command))
	return result, fatal
}

// commandName is that of the command's type in fsm: "KeyCreate".
func commandName(command []byte) string {
	c, err := fsm.Decode(command)
	if err != nil {
		return "what cannot be read"
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", c.Body), "*fsm.")
}
