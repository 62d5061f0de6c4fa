package dkek_test

import (
	"fmt"

	"github.com/keycustodian/keycustodian/dkek"
)

// Three nodes deal a DKEK that none of them knows; later two of them bring it
// into a new device of the third.
func Example() {
	self := map[int]dkek.NodeID{1: {1}, 2: {2}, 3: {3}}
	var holders []dkek.Holder
	for n := 1; n <= 3; n++ {
		holders = append(holders, dkek.Holder{Node: self[n], Fingerprint: dkek.Fingerprint{byte(n)}})
	}
	plan := &dkek.Plan{Cluster: dkek.ClusterID{7}, Epoch: 1, Attempt: 1, Threshold: 2,
		Origin: dkek.Dealt, Holders: holders, Dealers: holders}

	// Each node makes a key for this attempt, deals, and sends everybody theirs.
	keys := make(map[dkek.NodeID]*dkek.RecipientKey)
	for _, h := range holders {
		keys[h.Node], _ = dkek.NewRecipientKey(dkek.Hybrid())
		defer keys[h.Node].Wipe()
	}
	var dealings []dkek.Dealing
	subs := make(map[dkek.NodeID][]*dkek.SubShare)
	for _, dealer := range holders {
		dealt, _ := dkek.Deal(plan, dealer.Node, nil)
		dealing := dealt.Public()
		dealings = append(dealings, dealing)
		for _, h := range holders {
			sealed, _ := dealt.SealFor(h.Node, keys[h.Node].Public(), []byte("create 1"))
			sub, _ := dkek.OpenSubShare(keys[h.Node], sealed, []byte("create 1"), plan, &dealing, h.Node)
			subs[h.Node] = append(subs[h.Node], sub)
		}
		dealt.Wipe()
	}
	sharing, _ := dkek.NewSharing(plan, dealings)
	bundles := make(map[dkek.NodeID]*dkek.Bundle)
	for _, h := range holders {
		bundles[h.Node], _ = dkek.NewBundle(sharing, h.Node, subs[h.Node])
	}

	// Node 3 has a blank device. Nodes 1 and 2 release their shares to it.
	key, _ := dkek.NewRecipientKey(dkek.Hybrid())
	defer key.Wipe()
	gather, _ := dkek.NewGather(sharing, key)
	for n := 1; n <= 2; n++ {
		release, _ := bundles[self[n]].SealRelease(sharing, key.Public(), []byte("provision 2"))
		if err := gather.Add(self[n], release, []byte("provision 2")); err != nil {
			fmt.Println(err) // names the holder whose share is bad
		}
	}
	quorum, _ := gather.Quorum()
	for _, holder := range quorum {
		partial, _ := gather.Partial(quorum, holder)
		fmt.Println("import", partial.Len(), "bytes of holder", holder) // the device XORs them
		partial.Wipe()
	}
	// Output:
	// import 32 bytes of holder 01000000000000000000000000000000
	// import 32 bytes of holder 02000000000000000000000000000000
}
