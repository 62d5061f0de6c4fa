package main

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/spf13/cobra"
)

func (a *app) operatorPolicy() *cobra.Command {
	var approvals int
	var to api.Policy
	var stale, wait time.Duration
	var f ceremonyFlags
	c := &cobra.Command{
		Use:   "policy",
		Short: "show the policy, or open a govern ceremony that changes it",
		Long: `Without a change it shows what holds for all keys and sharings that do not say
themselves. With one it opens a govern ceremony; what is not named stays.`,
		Example: `  nodectl operator policy
  nodectl operator policy --copies 2 --reason "two devices before a key counts"
  nodectl operator policy --legacy rsa-1024 --delete-after 720h
  nodectl operator policy --approvals 2`,
		Args: cobra.NoArgs,
	}
	flags := c.Flags()
	flags.IntVar(&approvals, "approvals", 0, "new `NUMBER` of approvals that a ceremony needs; 0 keeps it")
	flags.IntVar(&to.Copies, "copies", 0, "how `MANY` devices hold a key before it is acknowledged; 1 at first")
	flags.DurationVar(&stale, "stale-for", 0, "how long a node without quorum goes on using keys, a `DURATION`; 0s is not at all, 1h at first")
	flags.DurationVar(&wait, "delete-after", 0, "the wait of a deletion that does not say itself, a `DURATION`; 168h at first")
	flags.IntVar(&to.Threshold, "threshold", 0, "how `MANY` holders later sharings take at least; 0 is the majority")
	flags.StringSliceVar(&to.Legacy, "legacy", nil, "legacy `TYPES` that may be made: rsa-1024, ecdsa-p192; \"\" is none")
	f.add(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		changes := map[string]func(*api.Policy){
			"copies":       func(p *api.Policy) { p.Copies = to.Copies },
			"stale-for":    func(p *api.Policy) { p.StaleForSeconds = int64(stale / time.Second) },
			"delete-after": func(p *api.Policy) { p.DeleteAfterSeconds = int64(wait / time.Second) },
			"threshold":    func(p *api.Policy) { p.Threshold = to.Threshold },
			"legacy": func(p *api.Policy) {
				p.Legacy = append([]string{}, to.Legacy...)
				slices.Sort(p.Legacy)
				p.Legacy = slices.Compact(p.Legacy)
			},
		}
		for name := range changes {
			if !c.Flags().Changed(name) {
				delete(changes, name)
			}
		}
		if len(changes) == 0 && !c.Flags().Changed("approvals") {
			return a.showPolicy(c)
		}
		return a.govern(c, api.GovernRequest{Approvals: approvals, CeremonyTerms: f.terms()}, f, func(p *api.Policy) {
			for _, change := range changes {
				change(p)
			}
		})
	}
	return c
}

func (a *app) showPolicy(c *cobra.Command) error {
	ctx, cancel := a.context(c)
	defer cancel()
	var p api.Policy
	if err := a.ask(ctx, api.PolicyShow, nil, &p); err != nil {
		return err
	}
	return a.show(p, func(w io.Writer) {
		row(w, "copies", p.Copies)
		row(w, "stale for", time.Duration(p.StaleForSeconds)*time.Second)
		row(w, "deletion after", time.Duration(p.DeleteAfterSeconds)*time.Second)
		threshold := fmt.Sprint(p.Threshold)
		if p.Threshold == 0 {
			threshold = "majority"
		}
		row(w, "threshold", threshold)
		row(w, "legacy types", strings.Join(p.Legacy, ", "))
	})
}

// policyText is a policy in one line.
func policyText(p api.Policy) string {
	return fmt.Sprintf("copies %d, stale for %v, deletion after %v, threshold %d (0: majority), legacy %v", p.Copies,
		time.Duration(p.StaleForSeconds)*time.Second, time.Duration(p.DeleteAfterSeconds)*time.Second, p.Threshold, p.Legacy)
}

// policyOf is the policy that a proposal puts in force, with its defaults in place.
func policyOf(p fsm.Policy) api.Policy {
	wire := api.Policy{Copies: p.CopiesOrDefault(), StaleForSeconds: int64(p.StaleTime() / time.Second),
		DeleteAfterSeconds: int64(p.DeleteTime() / time.Second), Threshold: p.Threshold, Legacy: []string{}}
	for _, keyType := range p.Legacy {
		wire.Legacy = append(wire.Legacy, string(keyType))
	}
	return wire
}

// wantPolicy refuses a proposal whose policy is not the one that was shown.
func wantPolicy(want api.Policy, proposal *fsm.Proposal) error {
	if got := policyOf(proposal.Policy); !reflect.DeepEqual(got, want) {
		return fmt.Errorf("the node proposes another policy than you asked for: %s", policyText(got))
	}
	return nil
}
