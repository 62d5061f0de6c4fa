package node

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// auditSegment is how many audit records one file holds. It is small beside
// fsm.MaxAudit, so that a node that runs writes a record long before the state
// forgets it.
const auditSegment = 1000

const auditFolder = "audit"

// auditEvery is how often a node looks for records to write out: several times
// while the state could forget a file's worth.
const auditEvery = 500 * time.Millisecond

// auditFile names the file that holds records segment*auditSegment+1 and the
// following ones.
func auditFile(segment uint64) string { return fmt.Sprintf("%s/%012d", auditFolder, segment) }

// keepAudit writes audit records out before the state forgets them. A file is
// written whole, once all its records are there.
func (n *Node) keepAudit() {
	n.run(func(ctx context.Context) {
		written := map[string]bool{}
		if names, err := n.files.list(auditFolder); err == nil {
			for _, name := range names {
				written[name] = true
			}
		}
		ticker := time.NewTicker(auditEvery) // a watch would wake for every command
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if err := n.writeAudit(n.view(), written); err != nil {
				n.logger.Error("audit: records are not written out yet", "reason", err)
			}
		}
	})
}

func (n *Node) writeAudit(view *fsm.View, written map[string]bool) error {
	head, _ := view.AuditHead()
	first := uint64(1)
	for r := range view.Audit(0) {
		first = r.Seq
		break
	}
	// The first segment of which all records are still there.
	for segment := (first + auditSegment - 2) / auditSegment; (segment+1)*auditSegment <= head; segment++ {
		name := auditFile(segment)
		if written[name] {
			continue
		}
		var content strings.Builder
		for r := range view.Audit(segment*auditSegment + 1) {
			if r.Seq > (segment+1)*auditSegment {
				break
			}
			line, err := json.Marshal(auditLine{auditToWire(r), r.Previous.String()})
			if err != nil {
				return err
			}
			content.Write(append(line, '\n'))
		}
		if err := n.files.write(name, []byte(content.String())); err != nil {
			return err
		}
		written[name] = true
	}
	return nil
}

// auditLine is one line of an audit file.
type auditLine struct {
	api.AuditRecord
	Previous string `json:"previous"` // the Hash of the record before
}

func auditToWire(r *fsm.AuditRecord) api.AuditRecord {
	return api.AuditRecord{
		Seq: r.Seq, Index: r.Index, At: logTime(r.Time), Actor: r.Actor.Who.String(), Node: r.Actor.Node.String(),
		Action: strings.ReplaceAll(r.Action, " ", "."), Target: r.Target, Detail: r.Detail, Hash: r.Hash.String(),
	}
}

// listAudit gives a page: from this node's files where the state has forgotten
// the records, else from the state.
func listAudit(ctx context.Context, a *asked, q *api.AuditQuery) (api.Audit, error) {
	limit, err := pageLimit(q.Limit)
	if err != nil {
		return api.Audit{}, err
	}
	if err := a.look(ctx); err != nil {
		return api.Audit{}, err
	}
	head, hash := a.view.AuditHead()
	page := api.Audit{Records: []api.AuditRecord{}, Head: hash.String()}
	if q.After >= head {
		return page, nil
	}
	page.Records = a.node.oldAudit(a.view, q.After, limit)
	after := q.After
	if len(page.Records) > 0 {
		after = page.Records[len(page.Records)-1].Seq
	}
	for r := range a.view.Audit(after + 1) {
		if len(page.Records) == limit {
			break
		}
		page.Records = append(page.Records, auditToWire(r))
	}
	if n := len(page.Records); n > 0 && page.Records[n-1].Seq < head {
		page.Next = page.Records[n-1].Seq
	}
	return page, nil
}

// oldAudit reads records that the state has forgotten from this node's files,
// as far as it has them: a node that was away for long may lack some.
func (n *Node) oldAudit(view *fsm.View, after uint64, limit int) []api.AuditRecord {
	for r := range view.Audit(0) {
		if after+1 < r.Seq {
			return n.writtenAudit(r.Seq, after, limit)
		}
		break
	}
	return []api.AuditRecord{}
}

// writtenAudit reads records after one and before the oldest that the state has.
func (n *Node) writtenAudit(oldest, after uint64, limit int) []api.AuditRecord {
	records := []api.AuditRecord{}
	names, err := n.files.list(auditFolder)
	if err != nil {
		n.logger.Error("audit: old records cannot be listed", "reason", err)
		return records
	}
	from, _ := slices.BinarySearch(names, auditFile(after/auditSegment))
	for _, name := range names[min(from, len(names)):] {
		content, err := n.files.read(name)
		if err != nil {
			n.logger.Error("audit: old records cannot be read", "file", name, "reason", err)
			continue
		}
		for line := range strings.Lines(string(content)) {
			var r auditLine
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				n.logger.Error("audit: a file is damaged", "file", name, "reason", err)
				break
			}
			if r.Seq <= after || r.Seq >= oldest {
				continue
			}
			if records = append(records, r.AuditRecord); len(records) == limit {
				return records
			}
		}
	}
	return records
}

// setAuditAside puts the files that have records which a restored state does not
// know away from those that go on: their numbers are given again.
func (s *Stopped) setAuditAside(view *fsm.View, incarnation uint64) error {
	head, _ := view.AuditHead()
	names, err := s.node.files.list(auditFolder)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	from, _ := slices.BinarySearch(names, auditFile(head/auditSegment))
	for _, name := range names[from:] {
		content, err := s.node.files.read(name)
		if err == nil {
			err = s.node.files.write(fmt.Sprintf("%s-before-%d%s", auditFolder, incarnation, strings.TrimPrefix(name, auditFolder)), content)
		}
		if err == nil {
			err = s.node.files.remove(name)
		}
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
	}
	return nil
}
