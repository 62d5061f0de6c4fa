package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/transport"
)

// FuzzOwnFiles: whatever a disk made of the files of a data folder, what is read
// is read the same when it is written again, and a refusal names the file.
func FuzzOwnFiles(f *testing.F) {
	n := recordNode(f)
	n.seal.Store(secret.Take(bytes.Repeat([]byte{1}, secret.KeySize))) // of each of the fuzzer's processes
	n.id = dkek.NodeID{1}
	box, err := n.box(nodeKeyBox)
	if err != nil {
		f.Fatal(err)
	}
	files := []struct {
		name string
		seed []byte
		read func(t *testing.T, content []byte) error // of the file as it is
	}{
		{identityFile, nil, func(t *testing.T, _ []byte) error {
			who, err := readIdentity(n.files, box)
			if err == nil {
				err = who.save(n.files, box)
				if again, readErr := readIdentity(n.files, box); readErr != nil || again.node != who.node || again.key.fingerprint != who.key.fingerprint {
					t.Fatalf("%v became %v: %v", who.node, again.node, readErr)
				}
			}
			return err
		}},
		{peerMarksFile, []byte(peerMarksMagic + strings.Repeat("\x01", peerMarkSize)), func(t *testing.T, content []byte) error {
			sum := sha256.Sum256(content) // the fuzzer would not find it
			n.files.write(peerMarksFile, append(bytes.Clone(content), sum[:]...))
			p, err := openPeerMarks(n.files)
			if err != nil && len(p.known) != 0 {
				t.Fatal("a damaged file is believed in part")
			}
			again := &peerMarks{known: map[string]uint64{}}
			if err == nil && (again.parse(p.encode()) != nil || !reflect.DeepEqual(again.known, p.known)) {
				t.Fatalf("%v became %v", p.known, again.known)
			}
			return err
		}},
		{membersFile, encoded(f, memberList{7, []memberIdentity{{Node: n.id, Addr: "10.0.0.1:7400"}}}), func(t *testing.T, content []byte) error {
			d := newDirectory(n)
			err := d.recall()
			if list := d.written.Load(); err == nil && list != nil {
				if err := d.remember(*list); err != nil {
					t.Fatal(err)
				}
				d.writtenKey(n.id)
			} else if d.learned.Load() != nil {
				t.Fatal("a damaged file is believed")
			}
			return err
		}},
		{sponsorsFile, []byte(`[{"node":"00","fingerprint":"ab","addr":"10.0.0.1:7400"}]`), func(t *testing.T, _ []byte) error {
			n.files.remove(membersFile)
			d := newDirectory(n)
			err := d.load()
			if s := d.sponsors.Load(); s != nil {
				for _, one := range *s {
					transport.ParseFingerprint(one.Fingerprint)
				}
			}
			return err
		}},
		{deviceActFile, encoded(f, actRecord{[]usedWord{{fsm.RequestID{1}, 5}}}), func(t *testing.T, _ []byte) error {
			_, err := (&deviceActs{node: n}).load()
			return err
		}},
		{auditFile(0), []byte(`{"seq":1,"previous":"00"}` + "\n" + `{"seq":2}` + "\n{"), func(t *testing.T, _ []byte) error {
			records := n.writtenAudit(50, 1, 3)
			for _, r := range records {
				if r.Seq <= 1 || r.Seq >= 50 {
					t.Fatalf("record %d was not asked for", r.Seq)
				}
			}
			if len(records) > 3 {
				t.Fatalf("%d records", len(records))
			}
			return nil
		}},
	}
	who := identity{node: n.id}
	if who.key, err = drawKey(); err != nil {
		f.Fatal(err)
	}
	if err := who.save(n.files, box); err != nil {
		f.Fatal(err)
	}
	files[0].seed, _ = n.files.read(identityFile)
	for i, file := range files {
		f.Add(i, file.seed)
		f.Add(i, []byte("null"))
		f.Add(i, []byte{})
	}
	f.Fuzz(func(t *testing.T, i int, content []byte) {
		if i < 0 || i >= len(files) {
			return
		}
		n.files.write(files[i].name, content)
		err := files[i].read(t, content)
		n.files.remove(files[i].name)
		if err != nil && !strings.Contains(err.Error(), files[i].name) {
			t.Fatalf("%s: %q: it does not say which file: %v", files[i].name, content, err)
		}
	})
}

func encoded(t testing.TB, body any) []byte {
	t.Helper()
	content, err := wireEncoder.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// FuzzLogRecords: an entry of the log is read with its own checksum only, a vote
// as it was written, and no snapshot without an index.
func FuzzLogRecords(f *testing.F) {
	entry := &raft.Log{Index: 3, Term: 2, Data: []byte("command")}
	f.Add(entry.Index, entry.Term, uint8(entry.Type), entry.Data, entrySum(entry), []byte("\x00\x00\x00\x00\x00\x00\x00\x07node"), []byte(`{"Version":1,"ID":"x","Index":5,"Term":2}`))
	f.Add(uint64(0), uint64(0), uint8(9), []byte{}, []byte{}, []byte("short"), []byte("null"))
	f.Fuzz(func(t *testing.T, index, term uint64, kind uint8, data, sum, vote, meta []byte) {
		store := raft.NewInmemStore()
		entry := &raft.Log{Index: index, Term: term, Type: raft.LogType(kind), Data: data, Extensions: sum}
		if err := store.StoreLog(entry); err != nil {
			t.Fatal(err)
		}
		want := bytes.Equal(sum, entrySum(entry))
		log := &checkedLog{LogStore: store, path: "log.db"}
		var got raft.Log
		err := log.GetLog(index, &got)
		var damaged *DamagedLogError
		if (err == nil) != want || err != nil && (!errors.As(err, &damaged) || got.Data != nil || !strings.Contains(err.Error(), fmt.Sprintf("entry %d", index))) {
			t.Fatalf("%+v is read as %+v: %v", entry, got, err)
		}

		votes := &voteStore{StableStore: store}
		store.Set([]byte(keyVote), vote)
		cast, candidate, err := votes.vote()
		if (err == nil) != (len(vote) >= 8) {
			t.Fatalf("%x is the vote for %x in term %d: %v", vote, candidate, cast, err)
		}
		if err == nil && cast != 0 {
			votes.SetUint64([]byte(keyVoteTerm), cast)
			votes.Set([]byte(keyVoteCandidate), candidate)
			if again, _ := store.Get([]byte(keyVote)); !bytes.Equal(again, vote) {
				t.Fatalf("%x became %x", vote, again)
			}
		}

		var m raft.SnapshotMeta
		if checkMetaContent(meta) == nil && (json.Unmarshal(meta, &m) != nil || m.Index == 0) {
			t.Fatalf("%q describes a snapshot", meta)
		}
	})
}

// FuzzPeerAnswers: whatever another node answers, it is read as the same when it is
// written again or is an error that names the method; and a chain of operator sets
// is believed by a joiner only where it leads to the token's.
func FuzzPeerAnswers(f *testing.F) {
	cluster := dkek.ClusterID{1}
	first, _ := operatorSet(f, cluster)
	answers := []any{
		prepareAnswer{fsm.Signed{Statement: []byte{0xa0}}}, shareAnswer{[]byte{1}, []byte{2}}, digestAnswer{Known: true}, forwardedAnswer{Output: []byte{1}, Fault: "input"},
		memberList{1, []memberIdentity{{Addr: "a"}}}, proposed{Index: 1, Err: &fsm.Error{Code: fsm.NotFound}}, logIndex{1}, markAnswer{Index: 1}, knownKey{},
		word{State: api.StateSealed, Restored: &restored{1, 2, 3}}, api.DeviceDetails{Label: "l"}, api.Ack{Index: 1},
		joinAnswer{[]sponsor{{Node: "n"}}, []fsm.GovernRecord{{Number: 1, Set: first}}},
	}
	for i, answer := range answers {
		f.Add(i, encoded(f, answer))
	}
	f.Add(0, []byte{0xf6})
	n := recordNode(f)
	f.Fuzz(func(t *testing.T, i int, body []byte) {
		if i < 0 || i >= len(answers) {
			return
		}
		ask := func(body []byte) (any, error) {
			answer := reflect.New(reflect.TypeOf(answers[i])).Interface()
			return answer, callBy(t.Context(), func(context.Context, transport.Peer, string, []byte) ([]byte, error) { return body, nil }, transport.Peer{}, "a.method", nothing{}, answer)
		}
		answer, err := ask(body)
		if err != nil {
			if !strings.Contains(err.Error(), "a.method") {
				t.Fatalf("%x: %v", body, err)
			}
			return
		}
		once := encoded(t, answer)
		again, err := ask(once)
		if err != nil || !bytes.Equal(encoded(t, again), once) {
			t.Fatalf("%x is read as %+v, and then as %+v: %v", body, answer, again, err)
		}
		if join, ok := answer.(*joinAnswer); ok {
			p, err := newPinRoom(n)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.adopt(cluster, join.Chain, 1, dkek.Hash{1}); err == nil || p.set().Number != 0 {
				t.Fatalf("%+v is believed", join.Chain)
			}
		}
	})
}
