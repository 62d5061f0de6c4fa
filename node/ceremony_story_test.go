package node_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

func openReshare(t *testing.T, m *nodetest.Member, options node.CeremonyOptions) fsm.CeremonyID {
	t.Helper()
	opened, err := m.OpenReshare(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	return opened.ID
}

func makeKey(t *testing.T, m *nodetest.Member, name string) *node.Key {
	t.Helper()
	key, err := m.CreateKey(t.Context(), node.KeySpec{Name: name, Type: hsm.ECDSAP256})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// devicesReady waits until every running member's device is reported with the
// cluster's DKEK.
func devicesReady(c *nodetest.Cluster) {
	c.T.Helper()
	leader := c.Leader()
	c.Eventually("every device is ready", func() bool {
		proven, ok := leader.View().Proven()
		for m := range leader.View().Members() {
			ok = ok && m.Device != nil && m.Device.KCV == proven.KCV
		}
		return ok
	})
}

// covers waits until a member's device is known to hold so many keys.
func covers(c *nodetest.Cluster, m *nodetest.Member, keys int) {
	c.T.Helper()
	c.Eventually(fmt.Sprintf("%s holds %d keys", m.Name, keys), func() bool {
		return c.Leader().View().Covered()[m.ID()] == keys
	})
}

func TestProvisionAReplacedDevice(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{})
		devicesReady(c)
		for i := range 3 {
			makeKey(t, c.Leader(), fmt.Sprintf("key-%d", i))
		}
		target := blankDevice(c, c.Follower())
		id := openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID(), Reason: "the card broke"})
		c.Approve(id, 1)
		c.Done(id)
		covers(c, target, 3)
		row, _ := c.Leader().View().Ceremony(id)
		if len(row.Releases) != 1 { // t is 2 and its own share did not travel
			t.Errorf("%d shares were released, want 1", len(row.Releases))
		}
		if cluster, _ := c.Leader().View().Cluster(); cluster.ReshareDue != "" {
			t.Errorf("a reshare is due: %s", cluster.ReshareDue)
		}
	})
}

// A device that has the DKEK is sent no shares: there is nothing to provision,
// until somebody wipes it.
func TestProvisionOfAReadyDevice(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		target, opener := c.Follower(), c.Leader()
		_, err := opener.OpenProvision(t.Context(), node.CeremonyOptions{Node: target.ID()})
		if !errors.Is(err, fsm.WrongState) || !strings.Contains(err.Error(), target.Name) || !strings.Contains(err.Error(), "device wipe") {
			t.Fatalf("asked to provision a device that has the DKEK: %v", err)
		}
		if _, err := target.OpenProvision(t.Context(), node.CeremonyOptions{}); !errors.Is(err, fsm.WrongState) {
			t.Fatalf("asked to provision its own device that has the DKEK: %v", err)
		}
		b := browse(t, c, c.Operators[0].Key)
		read[api.Ack](t, b.post(target, "/v1/device/wipe", wipeRequest(t, c.Operators[0], target)))
		id := openProvision(t, opener, node.CeremonyOptions{Node: target.ID()})
		c.Approve(id, 1)
		c.Done(id)
		devicesReady(c)
	})
}

// A node is lost for good: another one joins, is provisioned, and the successor
// reshare drops the lost one on the same approvals.
func TestReplaceALostNode(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{})
		devicesReady(c)
		makeKey(t, c.Leader(), "key")
		lost := c.Follower()
		lostID := lost.ID()
		lost.Crash()
		target := c.Add()
		id := openProvision(t, c.Leader(), node.CeremonyOptions{Node: target.ID(), Replaces: lostID})
		c.Approve(id, 1)
		c.Done(id)
		c.Eventually("the successor is in force", func() bool {
			proven, _ := c.Leader().View().Proven()
			return proven.Plan.Epoch == 2
		})
		row := provenEverywhere(t, c, 2)
		if row.Plan.HolderIndex(lostID) >= 0 || row.Plan.HolderIndex(target.ID()) < 0 || row.Plan.Threshold != 2 {
			t.Errorf("holders are not what the provision named: %+v", row.Plan)
		}
		info, err := c.Leader().Ceremony(t.Context(), id)
		if err != nil || info.Successor == (fsm.CeremonyID{}) {
			t.Errorf("no successor is shown: %v", err)
		}
		covers(c, target, 1)
		onlyShares(c, row)
	})
}

// What a reshare is waiting for is never more than what it waits for.
func TestProgressOfAReshareEndsAtItsTotal(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{})
		c.Add()
		leader := c.Leader()
		for i, m := range c.Members { // so that they report one after the other
			if m != leader {
				c.Network.Delay(leader.Host, m.Host, time.Duration(i+1)*20*time.Millisecond)
			}
		}
		id := openReshare(t, leader, node.CeremonyOptions{})
		c.Approve(id, 1)
		b := browse(t, c, c.Operators[0].Key)
		most := 0
		c.Eventually("the reshare ends", func() bool {
			shown := read[api.Ceremony](t, b.get(leader, "/v1/ceremony?id="+id.String()))
			if p := shown.Progress; p != nil && p.Step == "proving in devices" {
				most = max(most, p.Done)
				if p.Total != 4 || p.Done > p.Total {
					t.Errorf("%s, %d of %d", p.Step, p.Done, p.Total)
				}
			}
			return shown.Outcome != ""
		})
		if most < 2 {
			t.Errorf("only %d reports were seen", most)
		}
	})
}

func TestReshareAddsAndRemoves(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{})
		first, _ := c.Leader().View().Proven()
		c.Add()
		c.Add()
		id := openReshare(t, c.Leader(), node.CeremonyOptions{})
		c.Approve(id, 1)
		c.Done(id)
		row := provenEverywhere(t, c, 2)
		if len(row.Plan.Holders) != 5 || row.Plan.Threshold != 3 || row.KCV != first.KCV || row.Plan.Origin != dkek.Dealt {
			t.Errorf("sharing: %+v", row.Plan)
		}
		onlyShares(c, row)
		c.Eventually("everybody said that the old shares are gone", func() bool {
			old, _ := c.Leader().View().Sharing(1, 1)
			return old.Status == fsm.SharingSuperseded && len(old.Erased) == 3
		})
		// Now the founder and one more are dropped; they deal all the same.
		var stay []dkek.NodeID
		for _, m := range c.Members[2:] {
			stay = append(stay, m.ID())
		}
		id = openReshare(t, c.Leader(), node.CeremonyOptions{Holders: stay})
		c.Approve(id, 1)
		c.Done(id)
		row = provenEverywhere(t, c, 3)
		if len(row.Plan.Holders) != 3 || row.Plan.Threshold != 2 || row.KCV != first.KCV {
			t.Errorf("sharing: %+v", row.Plan)
		}
		onlyShares(c, row)
		for _, m := range c.Members {
			if m.Config.Memory.Content("proofs/3-1") == nil {
				t.Errorf("%s has no proof of the sharing for which it erased its share", m.Name)
			}
		}
	})
}

// A reshare names its dealers with the keys that they have now, and not with
// those that they had when they got their shares.
func TestReshareAfterAKeyWasRotated(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		proven, _ := c.Leader().View().Proven()
		m := c.Members[slices.IndexFunc(c.Members, func(m *nodetest.Member) bool { return m.ID() == proven.Plan.Holders[0].Node })]
		next := nodetest.NewOperator("next")
		signed, err := fsm.SignStatement(m.Signer(), fsm.DomainRotate, &fsm.RotateStatement{
			Cluster: m.Cluster(), Node: m.ID(), Old: proven.Plan.Holders[0].Fingerprint, Public: next.Public().Public,
		})
		if err != nil {
			t.Fatal(err)
		}
		possession, err := fsm.SignMessage(next.Key, fsm.DomainRotate, signed.Statement)
		if err != nil {
			t.Fatal(err)
		}
		go m.Propose(t.Context(), &fsm.MemberRotateKey{Signed: signed, Possession: possession}) // it is cut off before it hears of it
		witness := others(c, m)[0]
		c.Eventually("it is known", func() bool {
			row, ok := witness.View().Member(m.ID())
			return ok && row.Fingerprint == next.Public().Fingerprint()
		})
		dealers, err := witness.Dealers()
		if err != nil || dealers[0].Node != m.ID() || dealers[0].Fingerprint != next.Public().Fingerprint() {
			t.Errorf("dealers %v: %v", dealers, err)
		}
	})
}

func TestGovern(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.StartWith(t, 3, nodetest.Options{Operators: 3, Approvals: 2})
		pending := openReshare(t, c.Leader(), node.CeremonyOptions{})
		away := c.Follower()
		away.Crash()
		fresh := nodetest.NewOperator("fresh")
		proposal := fsm.Proposal{Operators: []fsm.Operator{c.Operators[0].Public(), fresh.Public()}, Approvals: 1}
		opened, err := c.Leader().OpenGovern(t.Context(), proposal, node.CeremonyOptions{Reason: "somebody left"})
		if err != nil {
			t.Fatal(err)
		}
		c.Approve(opened.ID, 2)
		c.Done(opened.ID)
		away.Start()
		for _, m := range c.Members {
			c.Eventually(m.Name+" pins the new operators", func() bool {
				set := m.Pinned()
				return set.Number == 2 && set.Approvals == 1 && len(set.Operators) == 2
			})
		}
		if row := ended(c, pending); row.Outcome != fsm.OutcomeVoid {
			t.Errorf("what was open under the former operators is %s", row.Outcome)
		}
		if err := c.Operators[1].Approve(t.Context(), c.Leader().Node, openReshare(t, c.Leader(), node.CeremonyOptions{})); err == nil {
			t.Error("an operator who was removed approves")
		}
		joined := c.Add()
		if joined.Pinned().Number != 2 {
			t.Errorf("a joiner pins operator set %d", joined.Pinned().Number)
		}
		joined.Restart()
		if joined.Pinned().Number != 2 {
			t.Errorf("after a restart a node pins operator set %d", joined.Pinned().Number)
		}
	})
}

func TestDrill(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		devicesReady(c)
		for i := range 4 {
			makeKey(t, c.Leader(), fmt.Sprintf("key-%d", i))
		}
		opened, err := c.Leader().OpenDrill(t.Context(), node.CeremonyOptions{Sample: 3})
		if err != nil {
			t.Fatal(err)
		}
		c.Approve(opened.ID, 1)
		c.Done(opened.ID)
		if row := ended(c, opened.ID); !strings.Contains(row.Detail, "3 of 3 sampled keys proven") {
			t.Errorf("the drill says: %s", row.Detail)
		}
	})
}

// A reshare whose proof nobody gives is staged when it expires; the old shares
// stay until a drill has proven the new ones.
func TestDrillProvesAStagedSharing(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		for _, m := range c.Members {
			m.Reached(func(_ context.Context, point string) error {
				if point == "gathered" {
					return errors.New("not today")
				}
				return nil
			})
		}
		id := openReshare(t, c.Leader(), node.CeremonyOptions{Expires: 30 * time.Second})
		c.Approve(id, 1)
		if row := ended(c, id); row.Outcome != fsm.OutcomeExpired {
			t.Fatalf("it ended as %s", row.Outcome)
		}
		staged, _ := c.Leader().View().Sharing(2, 1)
		for _, m := range c.Members {
			if files := m.Config.Memory.Files("shares/"); staged.Status != fsm.SharingStaged || len(files) != 2 {
				t.Fatalf("%s has %v of a sharing that is %s", m.Name, files, staged.Status)
			}
			m.Restart()
		}
		c.Eventually("there is a leader that has caught up", func() bool {
			row, ok := c.Leader().View().Sharing(2, 1)
			return ok && row.Status == fsm.SharingStaged
		})
		// The first drill brings it into force; the old shares stay until each holder
		// has seen the check value itself.
		first := c.Leader()
		for i, m := range append([]*nodetest.Member{first}, others(c, first)...) {
			drill := node.CeremonyOptions{Node: m.ID(), Sample: -1}
			if i == 0 {
				drill.Sharing = staged.Ref()
			}
			opened, err := c.Leader().OpenDrill(t.Context(), drill)
			if err != nil {
				t.Fatal(err)
			}
			c.Approve(opened.ID, 1)
			c.Done(opened.ID)
			if i == len(c.Members)-1 {
				break
			}
			time.Sleep(time.Second)
			for _, m := range c.Members {
				if files := m.Config.Memory.Files("shares/"); len(files) != 2 {
					t.Errorf("%s has %v, and not every holder has reported", m.Name, files)
				}
			}
		}
		for _, m := range c.Members {
			c.Eventually(m.Name+" erases its old share", func() bool { return len(m.Config.Memory.Files("shares/")) == 1 })
		}
		onlyShares(c, provenEverywhere(t, c, 2))
	})
}

// Rows 13 to 15 of the crash table: an old holder dies on its way to erasing its
// old share.
func TestCrashWhileErasing(t *testing.T) {
	for _, point := range []string{"looking for proofs", "proof written", "share erased"} {
		t.Run(point, func(t *testing.T) {
			in(t, func(t *testing.T) {
				c := nodetest.Start(t, 3)
				victim := c.Follower()
				id := openReshare(t, c.Leader(), node.CeremonyOptions{})
				s := holdAt(victim, point)
				if point == "looking for proofs" {
					s = holdWhen(victim, point, func() bool { _, err := victim.Ceremony(t.Context(), id); return err == nil && closed(victim, id) })
				}
				c.Approve(id, 1)
				c.Done(id)
				s.kill(c, victim)
				row := provenEverywhere(t, c, 2)
				onlyShares(c, row)
				c.Eventually("the cluster knows", func() bool {
					old, _ := c.Leader().View().Sharing(1, 1)
					return len(old.Erased) == 3
				})
			})
		})
	}
}

func closed(m *nodetest.Member, id fsm.CeremonyID) bool {
	row, ok := m.View().Ceremony(id)
	return ok && row.Outcome != fsm.OutcomeOpen
}

// Row 3 at a reshare: a dealer that is no new holder deals anew, for nobody has
// seen what it dealt first; row 4: what is recorded cannot be dealt again.
func TestCrashOfADealer(t *testing.T) {
	for point, want := range map[string]fsm.Outcome{
		"dealt":             fsm.OutcomeSuccess,
		"dealing recorded":  fsm.OutcomeLost,
		"release committed": fsm.OutcomeLost,
		"release recorded":  fsm.OutcomeLost,
	} {
		t.Run(point, func(t *testing.T) {
			in(t, func(t *testing.T) {
				c := nodetest.StartWith(t, 4, nodetest.Options{})
				proven, _ := c.Leader().View().Proven()
				// The dealers are the first t holders in order of their IDs.
				at := slices.IndexFunc(c.Members, func(m *nodetest.Member) bool { return m.ID() == proven.Plan.Holders[0].Node })
				victim := c.Members[at]
				var stay []dkek.NodeID
				for i, m := range c.Members {
					if i != at {
						stay = append(stay, m.ID())
					}
				}
				s := holdAt(victim, point)
				opener := c.Members[(at+1)%4]
				id := openReshare(t, opener, node.CeremonyOptions{Holders: stay})
				c.Approve(id, 1)
				s.kill(c, victim)
				if row := ended(c, id); row.Outcome != want {
					t.Fatalf("it ended as %s (%s), want %s", row.Outcome, row.Detail, want)
				}
				if want != fsm.OutcomeSuccess {
					provenEverywhere(t, c, 1)
					id = openReshare(t, c.Leader(), node.CeremonyOptions{Holders: stay})
					c.Approve(id, 1)
					ended(c, id)
					c.Done(id)
				}
				onlyShares(c, provenEverywhere(t, c, 2))
			})
		})
	}
}

// Row 23: the govern record is committed and the pins are not written yet.
func TestCrashBeforePins(t *testing.T) {
	in(t, func(t *testing.T) {
		c := nodetest.Start(t, 3)
		victim := c.Follower()
		s := holdAt(victim, "govern committed")
		fresh := nodetest.NewOperator("fresh")
		proposal := fsm.Proposal{Operators: []fsm.Operator{c.Operators[0].Public(), fresh.Public()}, Approvals: 2}
		opened, err := c.Leader().OpenGovern(t.Context(), proposal, node.CeremonyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.Approve(opened.ID, 1)
		c.Done(opened.ID)
		c.Eventually("it saw the record", s.reached.Load)
		if victim.Pinned().Number != 1 {
			t.Fatal("the pins changed before they were to")
		}
		victim.Restart()
		c.Eventually("the pins follow", func() bool { return victim.Pinned().Number == 2 })
	})
}

// others are the members but one.
func others(c *nodetest.Cluster, but *nodetest.Member) []*nodetest.Member {
	var list []*nodetest.Member
	for _, m := range c.Members {
		if m != but {
			list = append(list, m)
		}
	}
	return list
}
