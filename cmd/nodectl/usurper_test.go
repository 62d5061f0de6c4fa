//go:build faults

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/raft"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/transport"
)

// usurper is an impostor that leads: Raft believes any member that names a newer
// term. What it sends becomes the honest nodes' log and state.
type usurper struct {
	*impostor
	honest  []*process
	voters  map[*process]raft.ServerID // the honest ones as Raft knows them
	addr    string
	carrier *raft.NetworkTransport
}

// usurp kills a node and takes its place, with its key and at its address.
func (p *processes) usurp(n *process) *usurper {
	p.t.Helper()
	n.kill()
	u := &usurper{addr: n.addr, honest: slices.DeleteFunc(slices.Clone(p.nodes), func(other *process) bool { return other == n })}
	u.impostor, u.voters = p.impersonate(n, n.addr), map[*process]raft.ServerID{}
	for _, other := range u.honest {
		id, _ := other.nodeKey()
		u.voters[other] = raft.ServerID(id.String())
	}
	u.carrier = raft.NewNetworkTransport(u.server.Raft(), 1, 10*time.Second, io.Discard)
	done := make(chan struct{})
	p.t.Cleanup(func() {
		close(done)
		u.carrier.Close()
	})
	go func() { // it votes for nobody and takes nothing
		for {
			select {
			case <-done:
				return
			case rpc := <-u.carrier.Consumer():
				rpc.Respond(nil, errors.New("no"))
			}
		}
	}()
	return u
}

func (u *usurper) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(u.id.String()), Addr: []byte(u.addr)}
}

func (i *impostor) fingerprint() dkek.Fingerprint { return dkek.Fingerprint(i.server.Fingerprint()) }

// answer has the impostor answer a method of peers, and counts who asks.
func (i *impostor) answer(method string, answer any, asked *atomic.Int64) {
	i.t.Helper()
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		i.t.Fatal(err)
	}
	body, err := mode.Marshal(answer)
	if err != nil {
		i.t.Fatal(err)
	}
	if err := i.server.Peers().Handle(method, func(context.Context, transport.Fingerprint, []byte) ([]byte, error) {
		asked.Add(1)
		return body, nil
	}); err != nil {
		i.t.Fatal(err)
	}
}

// newTerm is one that no honest node has seen.
func (u *usurper) newTerm(ctx context.Context) (term uint64, err error) {
	for _, n := range u.honest {
		metrics, err := n.metrics(ctx)
		if err != nil {
			return 0, err
		}
		found := raftTerm.FindStringSubmatch(metrics)
		if found == nil {
			return 0, fmt.Errorf("%s tells no term", n.name)
		}
		seen, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			return 0, err
		}
		term = max(term, uint64(seen)+1)
	}
	return term, nil
}

// logEnd is term and index of the last entry that a node has.
func (u *usurper) logEnd(ctx context.Context, n *process) (term, index uint64, err error) {
	var end struct {
		Term  uint64 `cbor:"1,keyasint"`
		Index uint64 `cbor:"2,keyasint"`
	}
	err = u.call(ctx, n, "log.end", struct{}{}, &end)
	return end.Term, end.Index, err
}

// install replaces the state of all honest nodes by a snapshot, and waits until
// they go on from it.
func (u *usurper) install(state *forgedState) {
	u.t.Helper()
	servers := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(u.id.String()), Address: raft.ServerAddress(u.addr)}}}
	for _, n := range u.honest {
		servers.Servers = append(servers.Servers, raft.Server{Suffrage: raft.Voter, ID: u.voters[n], Address: raft.ServerAddress(n.addr)})
	}
	eventually(u.t, "the snapshot is taken", func(ctx context.Context) error {
		term, err := u.newTerm(ctx)
		if err != nil {
			return err
		}
		index := state.machine.AppliedIndex()
		for _, n := range u.honest {
			_, last, err := u.logEnd(ctx, n)
			if err != nil {
				return err
			}
			index = max(index, last)
		}
		index += 1000
		content, err := state.snapshot(index)
		if err != nil {
			u.t.Fatal(err)
		}
		for _, n := range u.honest {
			request := &raft.InstallSnapshotRequest{
				RPCHeader: u.header(), SnapshotVersion: raft.SnapshotVersionMax, Term: term, LastLogIndex: index, LastLogTerm: term,
				Configuration: raft.EncodeConfiguration(servers), ConfigurationIndex: index, Size: int64(len(content)),
			}
			var answer raft.InstallSnapshotResponse
			if err := u.carrier.InstallSnapshot(u.voters[n], raft.ServerAddress(n.addr), request, &answer, bytes.NewReader(content)); err != nil || !answer.Success {
				return fmt.Errorf("%s: %+v, %w", n.name, answer, err)
			}
		}
		return nil
	})
}

// append writes commands into the log of all honest nodes, and says that they are
// committed. No honest leader has looked at them.
func (u *usurper) append(commands ...[]byte) {
	u.t.Helper()
	eventually(u.t, "the entries are taken", func(ctx context.Context) (err error) {
		u.reign(func(term uint64) { err = u.appendIn(ctx, term, commands) })
		return err
	})
}

// appendIn does it in a term in which nobody else leads, so that no log grows by
// itself. A try that one node alone has taken makes that one the next leader, and
// trying again changes nothing.
func (u *usurper) appendIn(ctx context.Context, term uint64, commands [][]byte) error {
	var lastTerm, last uint64
	for i, n := range u.honest {
		t, index, err := u.logEnd(ctx, n)
		if err != nil {
			return err
		}
		if i > 0 && (t != lastTerm || index != last) {
			return fmt.Errorf("%s has entry %d of term %d, another has %d of %d", n.name, index, t, last, lastTerm)
		}
		lastTerm, last = t, index
	}
	for _, n := range u.honest {
		request := &raft.AppendEntriesRequest{
			RPCHeader: u.header(), Term: term, PrevLogEntry: last, PrevLogTerm: lastTerm, LeaderCommitIndex: last + uint64(len(commands)),
		}
		for i, command := range commands {
			request.Entries = append(request.Entries, &raft.Log{Index: last + 1 + uint64(i), Term: term, Type: raft.LogCommand, Data: command})
		}
		var answer raft.AppendEntriesResponse
		if err := u.carrier.AppendEntries(u.voters[n], raft.ServerAddress(n.addr), request, &answer); err != nil || !answer.Success {
			return fmt.Errorf("%s: %+v, %w", n.name, answer, err)
		}
	}
	return nil
}

// reign has the honest nodes take this one for their leader while do runs, which is
// told the term.
func (u *usurper) reign(do func(term uint64)) {
	u.t.Helper()
	done, ended := make(chan struct{}), make(chan struct{})
	led := make(chan uint64, 1)
	go func() {
		defer close(ended)
		for {
			term, err := u.newTerm(context.Background())
			for err == nil {
				for n, id := range u.voters {
					var answer raft.AppendEntriesResponse
					request := &raft.AppendEntriesRequest{RPCHeader: u.header(), Term: term}
					if err = u.carrier.AppendEntries(id, raft.ServerAddress(n.addr), request, &answer); err == nil && answer.Term > term {
						err = errors.New("there is a newer term")
					}
				}
				if err == nil {
					select {
					case led <- term:
					default:
					}
				}
				select {
				case <-done:
					return
				case <-time.After(pollEvery):
				}
			}
			select {
			case <-done:
				return
			default:
			}
		}
	}()
	select {
	case term := <-led:
		do(term)
	case <-time.After(settleTime):
		u.t.Error("nobody takes it for the leader")
	}
	close(done)
	<-ended
}

// forgedState is a state in which rows were changed or added behind its back: see
// "Snapshot of the replicated state" in docs/format.md.
type forgedState struct {
	machine    *fsm.Machine
	ceremonies []*fsm.Ceremony     // added
	governs    []*fsm.GovernRecord // added, after those that are there
}

// snapshot writes the state with sums and digest that fit.
func (s *forgedState) snapshot(index uint64) ([]byte, error) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, err
	}
	var genuine bytes.Buffer
	if _, err := s.machine.State().Snapshot().WriteTo(&genuine); err != nil {
		return nil, err
	}
	const magic = len("KCSTATE\n")
	rest := genuine.Bytes()[magic:]
	chunk := func() (content []byte) {
		size := binary.BigEndian.Uint32(rest)
		content, rest = rest[4:4+size], rest[4+size:]
		return content
	}
	var header fsm.SnapshotHeader
	if err := cbor.Unmarshal(chunk(), &header); err != nil {
		return nil, err
	}
	header.Index = index
	var body bytes.Buffer
	digest := []byte("keycustodian v1 state\x00")
	digest = binary.BigEndian.AppendUint64(digest, uint64(header.Time))
	digest = binary.BigEndian.AppendUint64(digest, header.AuditSeq)
	digest = append(digest, header.AuditHead[:]...)
	for i := range header.Counts {
		table := fsm.Table(i + 1)
		var rows [][]byte
		for range header.Counts[i] {
			rows = append(rows, chunk())
		}
		if rows, err = s.add(mode, table, rows); err != nil {
			return nil, err
		}
		header.Counts[i] = uint64(len(rows))
		var sum [4]uint64
		for _, row := range rows {
			body.Write(binary.BigEndian.AppendUint32(nil, uint32(len(row))))
			body.Write(row)
			if table == fsm.TableRequests {
				var fields map[uint64]cbor.RawMessage
				if err := cbor.Unmarshal(row, &fields); err != nil {
					return nil, err
				}
				delete(fields, 5) // the message does not count
				if row, err = mode.Marshal(fields); err != nil {
					return nil, err
				}
			}
			hash := sha256.Sum256(slices.Concat([]byte("keycustodian v1 row\x00"), []byte{byte(table)}, row))
			var carry uint64
			for word := range sum {
				sum[word], carry = bits.Add64(sum[word], binary.LittleEndian.Uint64(hash[8*word:]), carry)
			}
		}
		digest = binary.BigEndian.AppendUint64(digest, header.Counts[i])
		for _, word := range sum {
			digest = binary.LittleEndian.AppendUint64(digest, word)
		}
	}
	header.Digest = dkek.Hash(sha256.Sum256(digest))
	encoded, err := mode.Marshal(&header)
	if err != nil {
		return nil, err
	}
	whole := slices.Concat(genuine.Bytes()[:magic], binary.BigEndian.AppendUint32(nil, uint32(len(encoded))), encoded, body.Bytes())
	trailer := sha256.Sum256(whole)
	return append(whole, trailer[:]...), nil
}

// add puts the added rows of a table in their places.
func (s *forgedState) add(mode cbor.EncMode, table fsm.Table, rows [][]byte) ([][]byte, error) {
	switch table {
	case fsm.TableCeremonies:
		id := func(row []byte) []byte {
			var c fsm.Ceremony
			cbor.Unmarshal(row, &c)
			return c.ID[:]
		}
		for _, c := range s.ceremonies {
			row, err := mode.Marshal(c)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		}
		slices.SortFunc(rows, func(a, b []byte) int { return bytes.Compare(id(a), id(b)) })
	case fsm.TableGoverns:
		for _, g := range s.governs {
			row, err := mode.Marshal(g)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}
