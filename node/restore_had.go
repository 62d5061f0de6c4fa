package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/keycustodian/keycustodian/fsm"
)

// hadLog is what a stopped node knows of the log that a backup is to replace, with
// that log whole, damaged or gone.
type hadLog struct {
	incarnation uint64 // of the cluster, by the mark
	index       uint64 // the highest entry that this node or a member is known to have had
	term        uint64 // of Raft, 0 where the log cannot be read
	by          string // whose index that is
	unreadable  error  // why this node's own log says nothing, or nil
}

// had looks at everything that says how far the cluster had come. The mark has to
// be there: it alone is left where the log is gone. It is written in batches, so
// that it may miss what was acknowledged in the last second.
func (s *Stopped) had() (hadLog, error) {
	m, err := s.readMark()
	if err != nil {
		return hadLog{}, err
	}
	h := hadLog{incarnation: m.incarnation, index: m.index, by: "this node's mark reaches"}
	log, err := s.logEnd()
	h.unreadable = err
	if log.term >= unreached || log.incarnation >= fsm.MaxIncarnation {
		h.unreadable, log = errors.New("its numbers are forged"), hadLog{}
	}
	h.incarnation, h.term = max(h.incarnation, log.incarnation), log.term
	h.raise(log.index, "this node's log ends at")
	if list := s.node.directory.learned.Load(); list != nil {
		h.raise(list.Index, "this node's list of members is of")
	}
	for id, index := range s.node.marks.all() {
		h.raise(index, "member "+id+" is known to have had")
	}
	return h, nil
}

// unreached is a term or index that no log comes to by itself. Whoever led by lies
// may have had it written: it says nothing about what was acknowledged.
const unreached = 1 << 62

func (h *hadLog) raise(index uint64, by string) {
	if index > h.index && index < unreached {
		h.index, h.by = index, by
	}
}

// beyond is how many entries a backup lacks, as far as this node knows.
func (h hadLog) beyond(b *fsm.Backup) uint64 {
	if h.index <= b.Index {
		return 0
	}
	return h.index - b.Index
}

func (h hadLog) words() string {
	words := fmt.Sprintf("%s entry %d", h.by, h.index)
	if h.unreadable != nil {
		words += fmt.Sprintf(" (its log cannot be read: %v)", h.unreadable)
	}
	return words
}

// allow refuses to give up more than operators signed, and to go on where the log
// has been already: a log that is later than the new beginning would win over it.
func (h hadLog) allow(s *fsm.RecoverStatement, b *fsm.Backup) error {
	switch beyond := h.beyond(b); {
	case beyond > s.Restore.Loses:
		return fmt.Errorf("%s entry %d, so %d entries would be lost here, and operators signed for %d: make the plan anew with --known %d", h.by, h.index, beyond, s.Restore.Loses, h.index)
	case h.index >= s.Index || h.term >= s.Term || h.incarnation >= s.Incarnation:
		return fmt.Errorf("this node has been at entry %d, term %d, incarnation %d, and the plan begins at entry %d, term %d, incarnation %d: make the plan at this node",
			h.index, h.term, h.incarnation, s.Index, s.Term, s.Incarnation)
	}
	return nil
}

// readMark reads the mark, which stays when a log is lost.
func (s *Stopped) readMark() (position, error) {
	path := s.markFile()
	if path == "" {
		return position{}, nil
	}
	m, err := openMark(path)
	if errors.Is(err, fs.ErrNotExist) {
		return position{}, errors.New("the file \"mark\" is missing, so this node cannot tell what a backup would lose: restore at other members, name this one as lost there, and join it again with an empty data folder")
	}
	if err != nil {
		return position{}, err
	}
	if m.written.index >= unreached || m.written.incarnation >= fsm.MaxIncarnation {
		s.node.logger.Warn("the mark is forged and left aside", "index", m.written.index, "incarnation", m.written.incarnation)
		return position{}, nil
	}
	return m.written, nil
}

var errLogGone = errors.New("it is gone")

// logEnd is the last index that this node's stores hold, Raft's term, and the
// incarnation of the newest snapshot, as far as they can be read. What they hold is
// left as it is.
func (s *Stopped) logEnd() (h hadLog, err error) {
	n := s.node
	memory := (*memoryStores)(nil)
	if n.config.Memory != nil {
		memory = &n.config.Memory.log
	} else if _, err := os.Stat(n.logFolder()); err != nil {
		return h, errLogGone
	}
	stores, err := readStores(n.logFolder(), memory, raftLogger(n.logger))
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, stores.close()) }()
	has, err := stores.hasState()
	if err != nil {
		return h, err
	}
	if !has {
		return h, errLogGone
	}
	if h.term, err = stores.stable.GetUint64([]byte(keyCurrentTerm)); err != nil {
		return h, err
	}
	if h.index, err = stores.log.LastIndex(); err != nil {
		return h, err
	}
	list, err := stores.snapshots.List()
	if err != nil || len(list) == 0 {
		return h, err
	}
	h.index, h.term = max(h.index, list[0].Index), max(h.term, list[0].Term)
	_, content, err := stores.snapshots.Open(list[0].ID)
	if err != nil {
		return h, err
	}
	defer content.Close()
	header, err := fsm.ReadSnapshotHeader(content)
	h.incarnation = header.Incarnation
	return h, err
}
