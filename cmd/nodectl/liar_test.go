//go:build faults

package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/transport"
)

// lie is what a member tells that has a key of the cluster and obeys no rule.
type lie struct {
	name string // as in docs/threats.md, "Lies that are told in tests"
	tell func(l *liar)
}

// liar is a cluster of which one member lies, with two operators who both must
// approve. Node 1 is the liar; the others are honest, and a majority.
type liar struct {
	*usurper
	p          *processes
	alice, bob ed25519.PrivateKey
	stranger   ed25519.PrivateKey // of nobody whom an operator knows
	backup     string             // of the genuine state
	genuine    *fsm.View
	devices    map[*process]api.DeviceDetails // before the first lie
	operators  string                         // digest of those whom every node believes
	publics    map[string]crypto.PublicKey    // of the keys that must stay
	opened     uint64                         // ceremonies that were made up
	cited      []*fsm.Ceremony                // that forgeries lean on
	pending    *fsm.Ceremony                  // opened, and approved by nobody
	approved   fsm.CeremonyID                 // by both operators
}

// memberLies are told by a member that neither leads nor has a share asked of it.
var memberLies = []lie{
	{"a share of a ceremony that there is not is asked for", (*liar).unknownCeremony},
	{"a command is proposed in another member's name", (*liar).otherName},
	{"a device is to be wiped, and no operator has said so", (*liar).forgedWords},
	{"a key that names its clients is used in a client's name", (*liar).clientsName},
	{"a stranger is said to be a member", (*liar).sybil},
	{"another member is said to have lost entries", (*liar).mark},
}

// leaderLies are told by whoever leads.
var leaderLies = []lie{
	{"the log has entries that are no commands", (*liar).junk},
	{"the log has commands that nobody signed", (*liar).unsignedCommands},
	{"a release is said to be committed", (*liar).uncommitted},
	{"the state is another one", (*liar).forgedCeremonies},
	{"a device is to be wiped by whom only the state calls an operator", (*liar).strangersWord},
	{"the log's time is far in the future", (*liar).future},
	{"a removal leaves fewer than t holders", (*liar).removals}, // after which nobody listens to it
}

// docs/threats.md lists the lies that are told here, in this order.
func TestLiarsAreOnThePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/threats.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "## Lies that are told in tests\n")
	table, _, _ = strings.Cut(table, "\n## ")
	var listed, told []string
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, " | "); strings.HasPrefix(line, "| ") && len(cells) == 3 && cells[1] != "lie" {
			listed = append(listed, cells[1])
		}
	}
	for _, l := range slices.Concat(memberLies, leaderLies) {
		told = append(told, l.name)
	}
	for _, f := range forgeries {
		told = append(told, f.name)
	}
	for _, h := range holderLies {
		told = append(told, h.name)
	}
	for _, c := range createLies {
		told = append(told, c.name)
	}
	if told = append(told, reshareLie); !slices.Equal(told, listed) {
		t.Errorf("the page lists %q\nand told are %q", listed, told)
	}
}

// A member that lies gets no share, no DKEK, no device wiped, no operator added;
// what the cluster has acknowledged stays.
func TestLiarMember(t *testing.T) {
	l := startLiar(t)
	for _, told := range memberLies {
		l.tell(told)
	}
	l.control()
}

// A leader that lies replaces log and state of the others, and gets no share by it.
func TestLiarLeader(t *testing.T) {
	l := startLiar(t)
	for _, told := range leaderLies {
		l.tell(told)
	}
}

func startLiar(t *testing.T) *liar {
	p := startProcesses(t, 3)
	l := &liar{p: p, alice: p.key.(ed25519.PrivateKey), devices: map[*process]api.DeviceDetails{}, publics: map[string]crypto.PublicKey{}}
	p.nodectl(nil, "operator", "new", "--out", p.path("bob.pem"))
	bob := &app{getenv: func(string) string { return "" }, key: p.path("bob.pem")}
	signer, err := bob.loadKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.bob = signer.(ed25519.PrivateKey)
	if _, l.stranger, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	p.nodectl(nil, "operator", "add", p.path("bob.pem.pub"), "--approvals", "2")
	p.nodectl(nil, "cluster", "refresh")
	c := p.client()
	for name, clients := range map[string][]string{"open": nil, "named": {fingerprintOf(t, l.alice).String()}} {
		if _, err := c.CreateKey(t.Context(), api.KeyCreateRequest{Name: name, Type: "ecdsa-p256", Clients: clients}); err != nil {
			t.Fatal(err)
		}
		key, err := c.Key(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		l.publics[name] = key.Public()
	}
	p.agree()
	for _, n := range p.nodes {
		l.devices[n] = l.device(n)
	}
	l.operators = l.pinned(p.nodes[0])
	l.backup = p.path("genuine.backup")
	p.nodectl(nil, "cluster", "backup", "--out", l.backup)
	l.genuine = l.state().State()
	l.usurper = p.usurp(p.nodes[0])
	return l
}

// state is a machine of its own with the genuine state.
func (l *liar) state() *fsm.Machine {
	l.p.t.Helper()
	file, err := os.Open(l.backup)
	if err != nil {
		l.p.t.Fatal(err)
	}
	defer file.Close()
	backup, err := fsm.ReadBackup(file)
	if err != nil {
		l.p.t.Fatal(err)
	}
	return backup.Machine
}

func (l *liar) device(n *process) (d api.DeviceDetails) {
	l.p.t.Helper()
	l.p.eventually("the device of "+n.name+" is told", func(ctx context.Context) error {
		_, err := l.p.client(n).Do(ctx, api.DeviceInfo, api.DeviceQuery{Node: n.name}, &d)
		return err
	})
	return d
}

// pinned is the digest of the operators whom a node believes, whatever its state says.
func (l *liar) pinned(n *process) string {
	l.p.t.Helper()
	var set api.OperatorSet
	l.p.eventually("the operators of "+n.name+" are told", func(ctx context.Context) error {
		_, err := l.p.client(n).Do(ctx, api.OperatorList, nil, &set)
		return err
	})
	return set.Digest
}

// tell tells a lie and looks whether all is as it was.
func (l *liar) tell(told lie) {
	l.t.Helper()
	told.tell(l)
	l.unharmed(told.name)
}

// unharmed wants every honest node's device, keys and operators as they were, one
// state at all of them, and the cluster at work.
func (l *liar) unharmed(after string) {
	l.t.Helper()
	for _, n := range l.honest {
		n.awaitHealth(func(h api.Health) bool { return h.Ready && h.Quorum })
		if d, was := l.device(n), l.devices[n]; d.State != was.State || d.KCV != was.KCV || d.Serial != was.Serial {
			l.t.Errorf("%s: the device of %s is %s with the check value %s", after, n.name, d.State, d.KCV)
		}
		if digest := l.pinned(n); digest != l.operators {
			l.t.Errorf("%s: %s believes the operators %s", after, n.name, digest)
		}
		for name, public := range l.publics {
			l.p.signs(n, name, public)
		}
	}
	l.oneState(after)
	if l.t.Failed() {
		l.t.Fatalf("that was after: %s", after)
	}
}

// oneState wants the digests of all honest nodes equal, at an index that all have
// applied.
func (l *liar) oneState(after string) {
	l.t.Helper()
	l.p.eventually("all have applied the same", func(ctx context.Context) error {
		digests, applied := map[string]string{}, map[uint64]bool{}
		for _, n := range l.honest {
			status, _, err := l.p.client(n).Status(ctx)
			if err != nil {
				return err
			}
			digests[status.Node.Digest], applied[status.Node.Applied] = n.name, true
		}
		if len(applied) > 1 {
			return fmt.Errorf("applied: %v", applied)
		}
		if len(digests) > 1 {
			l.t.Errorf("%s: the states differ at %v: %v", after, applied, digests)
		}
		return nil
	})
}

func fingerprintOf(t testing.TB, key ed25519.PrivateKey) transport.Fingerprint {
	t.Helper()
	f, err := transport.FingerprintOf(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func spki(t testing.TB, key ed25519.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// shareRequest and shareAnswer are the calls share.deal and share.release of
// docs/format.md.
type shareRequest struct {
	Ceremony fsm.CeremonyID `cbor:"1,keyasint"`
	Index    uint64         `cbor:"2,keyasint"`
}

type shareAnswer struct {
	Sealed    []byte `cbor:"1,keyasint"`
	Signature []byte `cbor:"2,keyasint"`
}

// shares asks every honest node for what a ceremony might bring it to give away,
// and returns how many did.
func (l *liar) shares(id fsm.CeremonyID) (given int, refusals error) {
	l.t.Helper()
	for _, n := range l.honest {
		for _, method := range []string{"share.release", "share.deal"} {
			var answer shareAnswer
			err := l.call(l.t.Context(), n, method, shareRequest{Ceremony: id}, &answer)
			if err == nil || len(answer.Sealed) > 0 {
				given++
			}
			refusals = errors.Join(refusals, err)
		}
	}
	return given, refusals
}

// releases wants the share of every honest node for a ceremony that is in order: what
// is refused otherwise is refused for its lie.
func (l *liar) releases(id fsm.CeremonyID) {
	l.t.Helper()
	l.p.eventually("what both operators approved is released", func(context.Context) error {
		if given, refusals := l.shares(id); given != len(l.honest) {
			return fmt.Errorf("%d releases: %w", given, refusals)
		}
		return nil
	})
}
