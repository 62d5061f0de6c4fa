package main

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
	"github.com/spf13/cobra"
)

// setFromWire makes the set that is signed and hashed from a cluster file's,
// and checks that its digest is the one beside it.
func setFromWire(cluster string, wire api.OperatorSet) (fsm.OperatorSet, error) {
	id, err := parseClusterID(cluster)
	if err != nil {
		return fsm.OperatorSet{}, err
	}
	set := makeSet(id, wire.Number, wire.Approvals, wire.Operators)
	if err := set.Validate(); err != nil {
		return set, err
	}
	if digest := set.Digest().String(); digest != wire.Digest {
		return set, fmt.Errorf("the operator set has the digest %s, not %.64s: it was changed by hand", short(digest), wire.Digest)
	}
	return set, nil
}

func makeSet(cluster dkek.ClusterID, number uint64, approvals int, operators []api.OperatorKey) fsm.OperatorSet {
	set := fsm.OperatorSet{Cluster: cluster, Number: number, Approvals: approvals}
	for _, o := range operators {
		set.Operators = append(set.Operators, fsm.Operator{Name: o.Name, Public: o.Public})
	}
	slices.SortFunc(set.Operators, func(a, b fsm.Operator) int {
		x, y := a.Fingerprint(), b.Fingerprint()
		return bytes.Compare(x[:], y[:])
	})
	return set
}

func setToWire(set fsm.OperatorSet) api.OperatorSet {
	wire := api.OperatorSet{Number: set.Number, Digest: set.Digest().String(), Approvals: set.Approvals}
	for _, o := range set.Operators {
		wire.Operators = append(wire.Operators, api.OperatorKey{Name: o.Name, Public: o.Public, Fingerprint: o.Fingerprint().String()})
	}
	return wire
}

// followChain verifies every link from the pinned set on.
func followChain(pinned fsm.OperatorSet, chain api.GovernChain) (fsm.OperatorSet, error) {
	for _, link := range chain.Records {
		record := &fsm.GovernRecord{Open: link.Open}
		for _, a := range link.Approvals {
			fingerprint, err := client.ParseFingerprint(a.Operator)
			if err != nil {
				return pinned, err
			}
			record.Approvals = append(record.Approvals, fsm.Approval{Operator: dkek.Fingerprint(fingerprint), Signature: a.Signature})
		}
		next, err := fsm.VerifyGovern(pinned, record)
		if err != nil {
			return pinned, fmt.Errorf("the change to operator set %d does not verify: %w", pinned.Number+1, err)
		}
		pinned = next
	}
	return pinned, nil
}

func parseClusterID(text string) (dkek.ClusterID, error) {
	var id dkek.ClusterID
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(id) {
		return id, fmt.Errorf("cluster ID %.40q is not 32 hexadecimal digits", text)
	}
	copy(id[:], raw)
	return id, nil
}

func signerFingerprint(signer crypto.Signer) (string, error) {
	fingerprint, err := client.KeyFingerprint(signer.Public())
	return fingerprint.String(), err
}

// checkName is fsm's rule for names, as a usage error.
func checkName(name string) error {
	if err := fsm.CheckName(name); err != nil {
		return &usageError{err: err}
	}
	return nil
}

// govern opens a govern ceremony based on the pinned set. The policy in force is
// the node's word; it is shown, as changed, because it is a part of what is signed.
func (a *app) govern(c *cobra.Command, request api.GovernRequest, f ceremonyFlags, change func(*api.Policy)) error {
	ctx, cancel := a.context(c)
	defer cancel()
	s, err := a.connect(ctx)
	if err != nil {
		return err
	}
	set, err := s.pin(ctx)
	var policy api.Policy
	if err == nil {
		err = s.do(ctx, api.PolicyShow, nil, &policy)
	}
	s.end(ctx)
	if err != nil {
		return err
	}
	if change != nil {
		change(&policy)
		request.Policy = &policy
	}
	next, err := proposed(set, &request)
	if err != nil {
		return err
	}
	a.say("policy from then on: %s", policyText(policy))
	return a.open(c, api.OperatorGovern, request, f, func(_ *session, o *fsm.Open) error {
		if o.Kind != fsm.CeremonyGovern || o.Proposal == nil {
			return fmt.Errorf("the node opened a %s ceremony", o.Kind)
		}
		got := fsm.OperatorSet{Cluster: next.Cluster, Number: next.Number, Approvals: o.Proposal.Approvals, Operators: o.Proposal.Operators}
		if got.Digest() != next.Digest() {
			return fmt.Errorf("the node proposes other operators or approvals than you asked for")
		}
		return wantPolicy(policy, o.Proposal)
	})
}

// proposed is the set that a request leads to. Operators to remove may be given
// by name; the request gets their fingerprints.
func proposed(set fsm.OperatorSet, request *api.GovernRequest) (fsm.OperatorSet, error) {
	next := fsm.OperatorSet{Cluster: set.Cluster, Number: set.Number + 1, Approvals: set.Approvals}
	if request.Approvals != 0 {
		next.Approvals = request.Approvals
	}
	remove := map[dkek.Fingerprint]bool{}
	for i, who := range request.Remove {
		at := slices.IndexFunc(set.Operators, func(o fsm.Operator) bool { return o.Name == who || o.Fingerprint().String() == who })
		if at < 0 {
			return next, hint("see nodectl operator list", fmt.Errorf("%.80q is no operator", who))
		}
		remove[set.Operators[at].Fingerprint()] = true
		request.Remove[i] = set.Operators[at].Fingerprint().String()
	}
	for _, o := range set.Operators {
		if !remove[o.Fingerprint()] {
			next.Operators = append(next.Operators, o)
		}
	}
	for _, o := range request.Add {
		next.Operators = append(next.Operators, fsm.Operator{Name: o.Name, Public: o.Public})
	}
	slices.SortFunc(next.Operators, func(a, b fsm.Operator) int {
		x, y := a.Fingerprint(), b.Fingerprint()
		return bytes.Compare(x[:], y[:])
	})
	request.Number = set.Number
	if err := next.Validate(); err != nil {
		return next, &usageError{err: err}
	}
	return next, nil
}

func (a *app) operatorPin() *cobra.Command {
	return &cobra.Command{
		Use: "pin", Short: "verify the changes of the operator set since the pinned one, and pin the newest", Args: cobra.NoArgs,
		Long: `Follows the signed changes of the operator set from the one in the cluster file,
and writes the newest there. Commands that need it do the same by themselves.`,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.end(ctx)
			set, err := s.pin(ctx)
			if err != nil {
				return err
			}
			return a.done(setToWire(set), "pinned operator set %d: digest %s", set.Number, set.Digest())
		},
	}
}
