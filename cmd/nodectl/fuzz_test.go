package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"testing"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// FuzzFollowChain: whatever a node says about changes of the operators, an
// operator's nodectl comes to a set that the pinned operators signed, or stays.
func FuzzFollowChain(f *testing.F) {
	// The same keys in each of the fuzzer's processes.
	alice := &nodetest.Operator{Name: "alice", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))}
	bob := &nodetest.Operator{Name: "bob", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))}
	pinned := fsm.OperatorSet{Cluster: dkek.ClusterID{1}, Number: 1, Approvals: 1, Operators: []fsm.Operator{alice.Public()}}
	signed, next := governed(f, pinned, alice.Key, bob.Public())
	forged, _ := governed(f, pinned, bob.Key, bob.Public())
	back, last := governed(f, next, bob.Key, alice.Public())
	for _, links := range [][]api.GovernRecord{{signed}, {forged}, {signed, back}, {back, signed}, {signed, signed}, {}} {
		seed, err := json.Marshal(api.GovernChain{Records: links})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		var chain api.GovernChain
		if json.Unmarshal(answer, &chain) != nil {
			return
		}
		set, err := followChain(pinned, chain)
		links := len(chain.Records)
		switch digest := set.Digest(); {
		case err != nil:
		case links == 0 && digest != pinned.Digest(), links == 1 && digest != next.Digest(), links == 2 && digest != last.Digest(), links > 2:
			t.Fatalf("%s: led to set %d of %+v", answer, set.Number, set.Operators)
		}
	})
}

// governed is the link by which the key's owner puts one operator in force, and
// the set that it leads to.
func governed(f *testing.F, from fsm.OperatorSet, key ed25519.PrivateKey, to fsm.Operator) (api.GovernRecord, fsm.OperatorSet) {
	f.Helper()
	next := fsm.OperatorSet{Cluster: from.Cluster, Number: from.Number + 1, Approvals: 1, Operators: []fsm.Operator{to}}
	open, err := fsm.EncodeOpen(&fsm.Open{
		Format: fsm.OpenFormat, Cluster: from.Cluster, Kind: fsm.CeremonyGovern, Govern: from.Ref(),
		Proposal: &fsm.Proposal{Operators: next.Operators, Approvals: next.Approvals},
	})
	if err != nil {
		f.Fatal(err)
	}
	signature, err := fsm.SignMessage(key, fsm.DomainApproval, open)
	if err != nil {
		f.Fatal(err)
	}
	operator := from.Operators[0].Fingerprint().String()
	return api.GovernRecord{Open: open, Approvals: []api.Approval{{Operator: operator, Signature: signature}}}, next
}

// FuzzSignatures: a file of an operator's signature that is read says whose it is,
// and is written as the same.
func FuzzSignatures(f *testing.F) {
	seed, err := json.Marshal(signatureFile{Operator: nodetest.NewOperator("alice").Public().Fingerprint().String(), Signature: make([]byte, 64)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"operator":"","signature":null}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		approval, err := parseSignature(content)
		if err != nil {
			return
		}
		written, err := json.Marshal(signatureFile{Operator: approval.Operator.String(), Signature: approval.Signature})
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseSignature(written)
		if err != nil || again.Operator != approval.Operator || !bytes.Equal(again.Signature, approval.Signature) {
			t.Fatalf("%s was read as %+v, and %s as %+v: %v", content, approval, written, again, err)
		}
	})
}
