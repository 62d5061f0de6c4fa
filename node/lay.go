package node

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// keyCurrentTerm is Raft's own name of its term in the stable store.
const keyCurrentTerm = "CurrentTerm"

// apply applies a recovery to a state in memory, which may refuse it: nothing of the
// node has changed yet. The operators' signatures were checked before.
func (s *Stopped) apply(machine *fsm.Machine, statement *fsm.RecoverStatement, body *fsm.Recover) error {
	by, ok := machine.State().Member(statement.Node)
	if !ok {
		return fmt.Errorf("node %v, which the operators named, is no member in that state", statement.Node)
	}
	hash := sha256.Sum256(body.Statement) // the same at every node that begins anew from it
	encoded, err := fsm.Encode(fsm.Command{
		Header: fsm.Header{Request: fsm.RequestID(hash[:16]), Time: statement.Time, Actor: fsm.Actor{Who: by.Fingerprint, Node: by.ID}}, Body: body,
	})
	if err != nil {
		return err
	}
	result := machine.Apply(statement.Index, encoded)
	return errors.Join(result.Fatal, refusalOf(result))
}

// refusalOf is a result's refusal as an error that is nil where there is none.
func refusalOf(result fsm.Result) error {
	if result.Err == nil {
		return nil
	}
	return result.Err
}

// lay makes a state the beginning of this node's log: a snapshot at the statement's
// index and term, with the state's members as Raft's configuration, in stores that
// are new. The former ones are kept beside them. Up to the last rename nothing has
// happened.
func (s *Stopped) lay(view *fsm.View, statement *fsm.RecoverStatement) error {
	folder := s.node.logFolder()
	fresh := new(memoryStores)
	building := ""
	if folder != "" {
		building = folder + ".new"
		if err := os.RemoveAll(building); err != nil {
			return err
		}
	}
	if err := s.build(building, fresh, view, statement); err != nil {
		return err
	}
	if folder == "" {
		s.node.config.Memory.log = *fresh
	} else if err := swapFolders(building, folder, fmt.Sprintf("%s-before-%d", folder, statement.Incarnation)); err != nil {
		return err
	}
	reach("stores laid")
	return s.writeBeside(view, statement)
}

// writeBeside writes what lies beside the stores and follows from them.
func (s *Stopped) writeBeside(view *fsm.View, statement *fsm.RecoverStatement) error {
	mark := &mark{path: s.markFile()}
	if err := mark.write(position{statement.Incarnation, statement.Index}); err != nil {
		return err
	}
	return s.node.directory.remember(memberListOf(view))
}

// build writes the stores.
func (s *Stopped) build(folder string, memory *memoryStores, view *fsm.View, statement *fsm.RecoverStatement) (err error) {
	stores, err := openStores(folder, memory, raftLogger(s.node.logger))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.close()) }()
	owner := s.node.id.String() + " " + statement.Cluster.String()
	if err := stores.stable.Set([]byte(keyOwner), []byte(owner)); err != nil {
		return err
	}
	if err := stores.stable.SetUint64([]byte(keyCurrentTerm), statement.Term); err != nil {
		return err
	}
	_, addresses := raft.NewInmemTransport("") // its addresses are written as they are
	sink, err := stores.snapshots.Create(raft.SnapshotVersionMax, statement.Index, statement.Term, membersOf(view), statement.Index, addresses)
	if err != nil {
		return err
	}
	if _, err := view.Snapshot().WriteTo(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// membersOf is Raft's configuration for the members of a state.
func membersOf(view *fsm.View) raft.Configuration {
	var configuration raft.Configuration
	for m := range view.Members() {
		suffrage := raft.Nonvoter
		if m.Voter {
			suffrage = raft.Voter
		}
		configuration.Servers = append(configuration.Servers, raft.Server{ID: raft.ServerID(m.ID.String()), Address: raft.ServerAddress(m.Addr), Suffrage: suffrage})
	}
	return configuration
}

// swapFolders puts what was built in the place of the folder, which is kept under
// another name. Whatever a crash leaves, finishLaying ends.
func swapFolders(built, folder, former string) error {
	reach("stores built")
	if err := os.Rename(built, folder+".next"); err != nil {
		return err
	}
	parent := filepath.Dir(folder)
	if err := secret.SyncFolder(parent); err != nil {
		return err
	}
	if _, err := os.Stat(folder); err == nil {
		if _, taken := os.Stat(former); taken == nil {
			former += "-" + time.Now().UTC().Format("20060102T150405.000000000")
		}
		if err := os.Rename(folder, former); err != nil {
			return err
		}
		if err := secret.SyncFolder(parent); err != nil {
			return err
		}
	}
	reach("stores moved")
	if err := os.Rename(folder+".next", folder); err != nil {
		return err
	}
	return secret.SyncFolder(parent)
}
