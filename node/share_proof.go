package node

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
)

// proofFolder holds, as "EPOCH-ATTEMPT", the deterministic CBOR of a proofRecord
// for each sharing whose proof this node has checked itself.
const proofFolder = "proofs"

// proofRecord is a proven sharing with what proved it.
type proofRecord struct {
	Format  int          `cbor:"1,keyasint"` // 1
	Sharing []byte       `cbor:"2,keyasint"` // dkek.Sharing.Encode
	KCV     dkek.KCV     `cbor:"3,keyasint"`
	Reports []fsm.Signed `cbor:"4,keyasint"` // fsm.ReportStatement
	// Public are the reporters' keys, DER SubjectPublicKeyInfo: more than one of a
	// node that reported again after its key was rotated.
	Public []proofKey   `cbor:"5,keyasint"`
	Acks   []fsm.Signed `cbor:"6,keyasint"` // fsm.AckStatement, of every holder
}

type proofKey struct {
	Node   dkek.NodeID `cbor:"1,keyasint"`
	Public []byte      `cbor:"2,keyasint"`
}

// verify checks that every holder has acknowledged its share and reported, and that
// the reports prove the sharing.
func (p *proofRecord) verify() (*dkek.Sharing, error) {
	if p.Format != 1 {
		return nil, fmt.Errorf("node: proof: format %d is not known", p.Format)
	}
	sharing, err := dkek.ParseSharing(p.Sharing)
	if err != nil {
		return nil, err
	}
	publics := func(id dkek.NodeID) (publics [][]byte) {
		for _, k := range p.Public {
			if k.Node == id {
				publics = append(publics, k.Public)
			}
		}
		return publics
	}
	if err := fsm.VerifyAcks(sharing, p.Acks, publics); err != nil {
		return nil, err
	}
	return sharing, fsm.VerifyReports(sharing, p.KCV, p.Reports, publics)
}

// provenSharing is the newest sharing that this node believes to be proven.
type provenSharing struct {
	name    sharingName
	sharing *dkek.Sharing
	err     error // why the one in force is not believed
}

// proven checks the sharing that the log says is in force, and writes its proof
// down, synced, before anything is erased for it.
func (s *shareRoom) proven(view *fsm.View) provenSharing {
	row, ok := view.Proven()
	if !ok {
		return provenSharing{err: ErrNoDKEK}
	}
	name := nameOf(&row.Plan)
	if sharing, err := s.readProof(name); err == nil && sharing.Hash() == row.Hash {
		return provenSharing{name: name, sharing: sharing}
	}
	proof, err := s.checkProof(view, row)
	if err != nil {
		return provenSharing{err: err}
	}
	sharing, err := proof.verify()
	if err != nil {
		return provenSharing{err: err}
	}
	encoded, err := wireEncoder.Marshal(proof)
	if err == nil {
		err = s.node.files.write(proofFolder+"/"+name.String(), encoded)
	}
	if err == nil {
		s.mu.Lock()
		delete(s.bad, name)
		s.mu.Unlock()
	}
	return provenSharing{name: name, sharing: sharing, err: err}
}

// readProof reads a proof that this node wrote. One that does not verify is as
// good as none: it is checked anew.
func (s *shareRoom) readProof(name sharingName) (*dkek.Sharing, error) {
	if sharing, ok := s.verified.Load(name); ok {
		return sharing.(*dkek.Sharing), nil
	}
	sharing, err := s.verifyFile(name)
	if err != nil {
		return nil, err
	}
	s.verified.Store(name, sharing)
	return sharing, nil
}

func (s *shareRoom) verifyFile(name sharingName) (*dkek.Sharing, error) {
	proof, err := s.proofFile(name)
	if err != nil {
		return nil, err
	}
	sharing, err := proof.verify()
	if err == nil && nameOf(&sharing.Plan) != name {
		err = fmt.Errorf("node: proof %s: it is of sharing %s", name, nameOf(&sharing.Plan))
	}
	return sharing, err
}

// checkProofs reads every proof anew. A bad one is not believed any more: that of
// the sharing in force is then made again, from what the state shows. s.mu is held.
func (s *shareRoom) checkProofs() error {
	files, err := s.node.files.list(proofFolder)
	if err != nil {
		return fmt.Errorf("node: proofs: %w", err)
	}
	s.bad = make(map[sharingName]error)
	for _, file := range files {
		name, ok := parseSharingName(file)
		if !ok {
			continue
		}
		if _, err := s.verifyFile(name); err != nil {
			s.verified.Delete(name)
			s.bad[name] = fmt.Errorf("node: the file %q is damaged (%w): this node does not remember by itself that share %s was in force; put a copy of the file back, or move it away", file, err, name)
			s.node.logger.Error("shares: a proof is damaged", "proof", name, "reason", err)
		}
	}
	return nil
}

// badProofs are the proofs that the last look found damaged and that could not be
// made again.
func (s *shareRoom) badProofs() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.bad))
}

func (s *shareRoom) proofFile(name sharingName) (*proofRecord, error) {
	content, err := s.node.files.read(proofFolder + "/" + name.String())
	if err != nil {
		return nil, err
	}
	return parseProof(content)
}

func parseProof(content []byte) (*proofRecord, error) {
	var proof proofRecord
	if err := wireDecoder.Unmarshal(content, &proof); err != nil {
		return nil, fmt.Errorf("node: proof: %w", err)
	}
	return &proof, nil
}

// checkProof puts a sharing's proof together from what this node can check: the
// ceremony was approved by operators that it pins, the plan is the one in their
// Open, the reporters' keys are those of the entries in it, and it continues the
// DKEK that this node has known before.
func (s *shareRoom) checkProof(view *fsm.View, row *fsm.SharingRow) (*proofRecord, error) {
	ceremonies := s.node.ceremonies
	a, err := ceremonies.wasApproved(view, row.Ceremony)
	if err != nil {
		return nil, err
	}
	sharing := row.Sharing()
	if a.open.Plan == nil || a.open.Plan.Hash() != sharing.Plan.Hash() {
		return nil, errors.New("node: proof: the sharing is not of the plan that was approved")
	}
	if err := s.continues(&sharing, row.KCV); err != nil {
		return nil, err
	}
	encoded, err := sharing.Encode()
	if err != nil {
		return nil, err
	}
	proof := &proofRecord{Format: 1, Sharing: encoded, KCV: row.KCV, Reports: everyReport(view, row), Acks: row.Acks}
	for _, h := range sharing.Plan.Holders { // whose acknowledgements are in this ceremony
		entry, err := a.open.Recipient(h.Node)
		if err != nil {
			return nil, err
		}
		proof.Public = append(proof.Public, proofKey{entry.Node.Node, entry.Public})
	}
	for _, signed := range proof.Reports {
		var report fsm.ReportStatement
		if err := signed.Peek(&report); err != nil {
			return nil, err
		}
		by := a
		if report.Ceremony != row.Ceremony { // a drill that proved it later
			if by, err = ceremonies.wasApproved(view, report.Ceremony); err != nil {
				return nil, err
			}
		}
		entry, err := by.open.Recipient(report.Node)
		if err != nil {
			return nil, err
		}
		if at := sharing.Plan.HolderIndex(report.Node); at >= 0 && !rotated(view, report.Node, sharing.Plan.Holders[at].Fingerprint, entry.Node.Fingerprint) {
			return nil, fmt.Errorf("node: proof: reporter %v has another key than as a holder", report.Node)
		}
		if by != a {
			proof.Public = append(proof.Public, proofKey{entry.Node.Node, entry.Public})
		}
	}
	if sharing.Plan.HolderIndex(s.node.id) >= 0 && !s.sawItself(view, row) {
		return nil, fmt.Errorf("node: proof: sharing %s was proven without this node: run a drill at it", nameOf(&sharing.Plan))
	}
	return proof, nil
}

// everyReport are the reports that proved a sharing, and of each holder that is not
// among their makers one that it made later, in a drill or when its device was filled.
func everyReport(view *fsm.View, row *fsm.SharingRow) []fsm.Signed {
	reports, by := slices.Clone(row.Reports), map[dkek.NodeID]bool{}
	for _, signed := range reports {
		var report fsm.ReportStatement
		if signed.Peek(&report) == nil {
			by[report.Node] = true
		}
	}
	for c := range view.Ceremonies() {
		for _, signed := range c.Reports {
			var report fsm.ReportStatement
			if signed.Peek(&report) == nil && report.Sharing == row.Hash && report.KCV == row.KCV &&
				row.Plan.HolderIndex(report.Node) >= 0 && !by[report.Node] {
				reports, by[report.Node] = append(reports, signed), true
			}
		}
	}
	return reports
}

// sawItself tells whether this node has combined shares of a sharing and found
// its check value, in whatever ceremony. The value is public: without that, one
// member that dealt wrongly could report for every quorum, and the good shares of
// before would be erased for it.
func (s *shareRoom) sawItself(view *fsm.View, row *fsm.SharingRow) bool {
	who := s.node.identityNow()
	mine := append([][]byte{who.key.spki}, who.past...)
	for c := range view.Ceremonies() {
		for _, signed := range c.Reports {
			var report fsm.ReportStatement
			if signed.Peek(&report) == nil && report.Node == s.node.id && report.Sharing == row.Hash && report.KCV == row.KCV &&
				slices.ContainsFunc(mine, func(public []byte) bool { return signed.Open(fsm.DomainReport, public, &report) == nil }) {
				return true
			}
		}
	}
	return false
}

// continues refuses a sharing that is not of the DKEK whose shares are here, or
// that contradicts this node's own share of it.
func (s *shareRoom) continues(sharing *dkek.Sharing, kcv dkek.KCV) error {
	name := nameOf(&sharing.Plan)
	for other, held := range s.shares() {
		if other == name && held.err == nil && held.sharing.Hash() != sharing.Hash() {
			return errors.New("node: proof: the share here is of another sharing with this number")
		}
		if proof, err := s.proofFile(other); err == nil && proof.KCV != kcv {
			return fmt.Errorf("node: proof: check value %v, and share %s here is of a DKEK with %v", kcv, other, proof.KCV)
		}
	}
	return nil
}
