package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/spf13/cobra"
)

func (a *app) dkekCommand() *cobra.Command {
	return noun("dkek", "the key that wraps every backup, and its shares", a.dkekCreate(), a.dkekStatus(), a.dkekReshare(), a.dkekDrill())
}

// wantKind checks that the node opened what was asked for.
func wantKind(o *fsm.Open, kind fsm.CeremonyKind) error {
	if o.Kind != kind {
		return fmt.Errorf("the node opened a %s ceremony, not a %s", o.Kind, kind)
	}
	return nil
}

// wantPlan checks a new sharing: these holders and no others, or all members,
// and the threshold, 0 being the majority at least. A node that could choose
// the holders could have all shares dealt to itself.
func wantPlan(kind fsm.CeremonyKind, holders []api.Endpoint, threshold int) checker {
	return func(s *session, o *fsm.Open) error {
		if err := wantKind(o, kind); err != nil {
			return err
		}
		if o.Plan == nil {
			return errors.New("the node plans no sharing")
		}
		if holders == nil {
			holders = s.members()
		}
		return wantHolders(o.Plan.Holders, o.Plan.Threshold, holders, threshold)
	}
}

func wantHolders(got []dkek.Holder, t int, want []api.Endpoint, threshold int) error {
	names := map[string]bool{}
	for _, h := range got {
		names[h.Node.String()] = true
	}
	for _, m := range want {
		if !names[m.ID] {
			return fmt.Errorf("the node leaves %s without a share", m.Name)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("the node plans %d holders, not %d", len(got), len(want))
	}
	if least := max(threshold, len(got)/2+1); t < least {
		return fmt.Errorf("the node plans the threshold %d: less than %d", t, least)
	}
	return nil
}

// named finds the members that are named; nil where none is.
func (a *app) named(c *cobra.Command, names []string) ([]api.Endpoint, error) {
	if len(names) == 0 {
		return nil, nil
	}
	ctx, cancel := a.context(c)
	defer cancel()
	s, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var members []api.Endpoint
	for _, name := range names {
		m, err := s.member(ctx, name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(members, m) {
			return nil, usage("%s is named twice", m.Name)
		}
		members = append(members, m)
	}
	return members, nil
}

func (a *app) dkekCreate() *cobra.Command {
	var request api.CreateDKEKRequest
	f := ceremonyFlags{waitsByDefault: true}
	c := &cobra.Command{
		Use: "create", Short: "deal the DKEK and put it into every device",
		Long: `Opens the ceremony that deals the DKEK among all members and puts it into every
member's device, signs your own approval, and waits. Nobody who deals knows the
DKEK, and nothing prints it; a software device has it in its host's memory. It is
done once in the life of a cluster.`,
		Example: `  nodectl dkek create --reason "first deal"
  nodectl dkek create --threshold 3`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			request.CeremonyTerms = f.terms()
			return a.open(c, api.DKEKCreate, request, f, wantPlan(fsm.CeremonyCreate, nil, request.Threshold))
		},
	}
	c.Flags().IntVar(&request.Threshold, "threshold", 0, "how `MANY` holders it takes; 0 is the majority")
	f.add(c)
	return c
}

func (a *app) dkekReshare() *cobra.Command {
	var request api.ReshareRequest
	var names []string
	f := ceremonyFlags{waitsByDefault: true}
	c := &cobra.Command{
		Use: "reshare", Short: "share the same DKEK anew, among all members or those named",
		Long: `Opens the ceremony that deals new shares of the same DKEK: after a member came
or went, after a suspicion, or on schedule. Old shares are erased once the new
ones are proven.`,
		Example: `  nodectl dkek reshare --reason "node-4 joined"
  nodectl dkek reshare --holder node-1 --holder node-2 --holder node-4`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			request.CeremonyTerms = f.terms()
			holders, err := a.named(c, names)
			if err != nil {
				return err
			}
			for _, m := range holders {
				request.Holders = append(request.Holders, m.ID)
			}
			return a.open(c, api.DKEKReshare, request, f, wantPlan(fsm.CeremonyReshare, holders, request.Threshold))
		},
	}
	c.Flags().StringArrayVar(&names, "holder", nil, "`NODE` that shall hold a share; again for more; none is all members")
	c.Flags().IntVar(&request.Threshold, "threshold", 0, "how `MANY` holders it takes; 0 is the majority")
	f.add(c)
	return c
}

func (a *app) dkekDrill() *cobra.Command {
	var request api.DrillRequest
	f := ceremonyFlags{waitsByDefault: true}
	c := &cobra.Command{
		Use: "drill", Short: "prove shares and a sample of blobs on a scratch device",
		Long: `Opens the ceremony that fills a scratch device as if it replaced a broken one,
brings back a sample of the keys, proves each, and wipes the device. It is how
to know that a restore would work.`,
		Example: `  nodectl dkek drill --sample 100 --reason "monthly"`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			request.CeremonyTerms = f.terms()
			check := checker(func(_ *session, o *fsm.Open) error { return wantKind(o, fsm.CeremonyDrill) })
			if request.Node != "" {
				target, err := a.named(c, []string{request.Node})
				if err != nil {
					return err
				}
				request.Node, check = target[0].ID, wantRecipient(fsm.CeremonyDrill, target[0])
			}
			return a.open(c, api.DKEKDrill, request, f, check)
		},
	}
	c.Flags().StringVar(&request.Node, "node", "", "`NODE` whose scratch device is used; else the one that answers")
	c.Flags().IntVar(&request.Sample, "sample", 10, "how `MANY` blobs are proven")
	f.add(c)
	return c
}

func (a *app) dkekStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "show the sharing, its holders and whether it is proven", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			var d api.DKEK
			if err := a.ask(ctx, api.DKEKStatus, nil, &d); err != nil {
				return err
			}
			return a.show(d, func(w io.Writer) { showDKEK(w, d) })
		},
	}
}

func showDKEK(w io.Writer, d api.DKEK) {
	row(w, "DKEK", d.State)
	if d.State == "none" {
		return
	}
	row(w, "KCV", d.KCV)
	row(w, "origin", d.Origin)
	row(w, "epoch", d.Epoch)
	row(w, "proven", yesNo(d.Proven))
	if d.Unproven != 0 {
		row(w, "unproven", fmt.Sprintf("epoch %d: run a drill", d.Unproven))
	}
	row(w, "threshold", fmt.Sprintf("%d of %d holders", d.Threshold, len(d.Holders)))
	for _, h := range d.Holders {
		health := "no report"
		if h.Share != nil {
			health = fmt.Sprintf("share of epoch %d ", h.Share.Epoch)
			if h.Share.OK {
				health += "good"
			} else {
				health += "BAD: " + h.Share.Text
			}
		}
		reach := "reachable"
		if !h.Reachable {
			reach = "NOT REACHABLE"
		}
		row(w, "  "+h.Name, reach+", "+health)
	}
	if d.ReshareDue != "" {
		row(w, "reshare due", d.ReshareDue)
	}
}
