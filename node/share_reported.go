package node

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/keycustodian/keycustodian/fsm"
)

// reportedFile has a line "EPOCH-ATTEMPT" for each sharing that this node has signed
// a device's report on, written and synced before it signed.
const reportedFile = "reported"

// reportedShares are the sharings that this node has reported on. Others erase what
// they held before on the strength of those reports, so a share that was reported
// stays until a later sharing is proven to this node, whatever the log says became of
// it: a leader could tell them that it came into force, and this node that it did not.
type reportedShares struct {
	names map[sharingName]bool
	all   bool // the file is damaged: any share may have been reported
}

// readReported reads what was noted before. A last line without its end was never
// synced, and so nothing was signed for it.
func (s *shareRoom) readReported() error {
	s.reported = reportedShares{names: map[sharingName]bool{}}
	content, err := s.node.files.read(reportedFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("node: reported shares: %w", err)
	}
	for line := range strings.Lines(string(content)) {
		text, whole := strings.CutSuffix(line, "\n")
		name, ok := parseSharingName("/" + text)
		switch {
		case ok && whole:
			s.reported.names[name] = true
		case whole && text != "":
			s.reported.all = true
			s.node.logger.Error("shares: the file of reported shares is damaged: no dropped share is erased", "file", reportedFile)
		}
	}
	return nil
}

func (s *shareRoom) hasReported(name sharingName) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reported.all || s.reported.names[name]
}

// noteReport writes down that this node is about to sign a report on a sharing. Of
// one that is yet to come into force the node must have its own share.
func (s *shareRoom) noteReport(row *fsm.SharingRow) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := nameOf(&row.Plan)
	if row.Status != fsm.SharingProven && row.Plan.HolderIndex(s.node.id) >= 0 {
		bundle, _, err := s.open(name)
		if err != nil {
			return err
		}
		bundle.Wipe()
	}
	if s.reported.names[name] {
		return nil
	}
	// A line of its own, whatever a crash left at the end.
	if err := s.node.files.append(reportedFile, []byte("\n"+name.String()+"\n")); err != nil {
		return fmt.Errorf("node: reported shares: %w", err)
	}
	s.reported.names[name] = true
	return nil
}

// drop erases a share of a sharing that never came into force, unless it was reported.
func (s *shareRoom) drop(name sharingName) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reported.all || s.reported.names[name] {
		return nil
	}
	return s.remove(name)
}
