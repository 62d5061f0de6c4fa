package node

import (
	"context"
	"fmt"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/transport"
)

const (
	methodBoot = "member.boot"
	// twiceTime bounds the question whether a process answers at an address: it is
	// one dial, and a start waits for it where nobody says no.
	twiceTime = time.Second
)

// bootID names one process of a node, as long as it runs. It is drawn anew at
// every start and kept nowhere.
type bootID [16]byte

// RunningTwiceError says that another process runs with this node's key: somebody
// copied its data folder and started the copy too.
type RunningTwiceError struct {
	Addr string // where it answers
	Peer string // address of the member that reached it; "" where this node did
}

func (e *RunningTwiceError) Error() string {
	by := ""
	if e.Peer != "" {
		by = ", says the member at " + e.Peer
	}
	return fmt.Sprintf("node: another process with this node's key answers at %s%s: a data folder and its copy must not run at once; stop that process, or remove this node and join anew with an empty data folder", e.Addr, by)
}

type bootAnswer struct {
	Boot bootID `cbor:"1,keyasint"`
}

// answerBoot says which process this is, to members and to a process that has the
// same key.
func (n *Node) answerBoot() error {
	return n.server.Peers().Handle(methodBoot, func(context.Context, transport.Fingerprint, []byte) ([]byte, error) {
		return wireEncoder.Marshal(bootAnswer{n.boot})
	})
}

// answersAs tells whether a process with this member's key other than boot answers
// at its address. Where nobody answers in time, there is none: after a kill or a
// power cut a node must not be refused for what it was.
func (n *Node) answersAs(ctx context.Context, m memberIdentity, boot bootID) bool {
	ctx, cancel := context.WithTimeout(ctx, twiceTime)
	defer cancel()
	var answer bootAnswer
	err := callBy(ctx, n.server.Peers().CallAt, transport.Peer{Fingerprint: transport.Fingerprint(m.Fingerprint), Addr: m.Addr}, methodBoot, nothing{}, &answer)
	return err == nil && answer.Boot != boot
}

// checkTwice asks, before Raft starts, at this node's own addresses whether it runs
// there already: two would vote twice, and depose each other's leaders for ever.
func (n *Node) checkTwice(ctx context.Context) error {
	own := memberIdentity{n.id, n.Fingerprint(), n.config.Advertise}
	if n.answersAs(ctx, own, n.boot) {
		return &RunningTwiceError{Addr: own.Addr}
	}
	if before, ok := n.directory.selfBefore(); ok && before.Addr != own.Addr {
		own.Addr = before.Addr
		if n.answersAs(ctx, own, n.boot) {
			return &RunningTwiceError{Addr: own.Addr}
		}
	}
	return nil
}

// selfBefore is this node's own row as of when it ran last.
func (d *directory) selfBefore() (memberIdentity, bool) {
	if list := d.learned.Load(); list != nil {
		for _, m := range list.Members {
			if m.Node == d.node.id {
				return m, true
			}
		}
	}
	return memberIdentity{}, false
}

// memberOf is the member with this key, by the state or what came before it.
func (d *directory) memberOf(f dkek.Fingerprint) (memberIdentity, bool) {
	if m, ok := d.node.view().MemberByFingerprint(f); ok {
		return memberIdentity{m.ID, m.Fingerprint, m.Addr}, true
	}
	return d.learnt(func(m memberIdentity) bool { return m.Fingerprint == f })
}
