package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/spf13/cobra"
)

func (a *app) ceremonyCommand() *cobra.Command {
	return noun("ceremony", "acts that operators approve", a.ceremonyList(), a.ceremonyShow(), a.ceremonyApprove(), a.ceremonyDeny())
}

// ceremonyFlags are common to all commands that open a ceremony.
type ceremonyFlags struct {
	reason         string
	expires        time.Duration
	wait, noWait   bool
	waitsByDefault bool
	apart          time.Duration
}

func (f *ceremonyFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.reason, "reason", "", "`TEXT` for the record")
	c.Flags().DurationVar(&f.expires, "expires", time.Hour, "the ceremony ends after `DURATION`, 24h at most")
	c.Flags().DurationVar(&f.apart, "clocks-apart", clockSlack, "sign also where the cluster's clocks are `DURATION` apart from this machine's, and the ceremony is open for so much longer")
	if f.waitsByDefault {
		c.Flags().BoolVar(&f.noWait, "no-wait", false, "do not wait for its end")
	} else {
		c.Flags().BoolVar(&f.wait, "wait", false, "wait for its end, with progress")
	}
}

func (f *ceremonyFlags) terms() api.CeremonyTerms {
	return api.CeremonyTerms{Reason: f.reason, ExpiresSeconds: int64(f.expires / time.Second)}
}

func (f *ceremonyFlags) waits() bool { return f.wait || f.waitsByDefault && !f.noWait }

func (f *ceremonyFlags) validate() error {
	if f.expires < time.Minute || f.expires > fsm.MaxCeremonyTime {
		return usage("--expires is between 1m and %v", fsm.MaxCeremonyTime)
	}
	if f.apart < 0 || f.apart > fsm.MaxCeremonyTime {
		return usage("--clocks-apart is between 0 and %v", fsm.MaxCeremonyTime)
	}
	return nil
}

// checker compares what a node put into an Open with what was asked for.
type checker func(s *session, o *fsm.Open) error

// open opens a ceremony, signs the caller's own approval, and waits for its end
// where that is wanted. What is signed is the Open, and so that is checked.
func (a *app) open(c *cobra.Command, route string, request any, f ceremonyFlags, check checker) error {
	if err := f.validate(); err != nil {
		return err
	}
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
	if err := s.freshen(ctx); err != nil {
		return err
	}
	var opened api.Ceremony
	if err := s.do(ctx, route, request, &opened); err != nil {
		return err
	}
	a.say("opened ceremony %s (%s), until %s", opened.ID, opened.Kind, when(opened.ExpiresAt))
	approved, err := s.approveOwn(ctx, set, opened, f, check)
	var apart *expiryError
	if errors.As(err, &apart) && len(opened.Approvals) == 0 {
		err = s.takeBack(ctx, opened, f, apart)
	} else if err != nil {
		err = hint("look at it with nodectl ceremony show "+opened.ID+", and deny it if it is not what you asked for", err)
	}
	if err != nil {
		return err
	}
	if f.waits() {
		if approved, err = s.follow(ctx, approved); err != nil {
			return err
		}
		if err := s.followOn(ctx, approved); err != nil {
			return err
		}
		s.settle(ctx, approved)
	}
	return a.show(approved, func(w io.Writer) { row(w, approved.ID) })
}

// approveOwn signs for the caller where approvals are needed.
func (s *session) approveOwn(ctx context.Context, set fsm.OperatorSet, opened api.Ceremony, f ceremonyFlags, check checker) (api.Ceremony, error) {
	if opened.Needed == 0 {
		return opened, nil
	}
	o, err := s.readOpen(ctx, set, opened)
	if err != nil {
		return opened, err
	}
	if o.Reason != f.reason {
		return opened, fmt.Errorf("the node gave the reason %.80q", o.Reason)
	}
	if err := check(s, o); err != nil {
		return opened, err
	}
	if err := f.checkExpiry(o); err != nil {
		return opened, err // last: it is what was asked for, but for the time
	}
	approved, err := s.sign(ctx, api.CeremonyApprove, fsm.DomainApproval, opened)
	if err != nil {
		return opened, err
	}
	s.app.say("signed your own approval: %d of %d", len(approved.Approvals), approved.Needed)
	if left := approved.Needed - len(approved.Approvals); left > 0 {
		s.app.say("%d more needed: other operators run nodectl ceremony approve %s", left, approved.ID)
	}
	return approved, nil
}

// sign hands in the caller's signature over the exact bytes of an Open.
func (s *session) sign(ctx context.Context, route string, domain fsm.Domain, c api.Ceremony) (api.Ceremony, error) {
	var after api.Ceremony
	signer, err := s.operatorKey(ctx)
	if err != nil {
		return after, err
	}
	fingerprint, err := signerFingerprint(signer)
	if err != nil {
		return after, err
	}
	signature, err := fsm.SignMessage(signer, domain, c.Open)
	if err != nil {
		return after, err
	}
	request := api.CeremonySignRequest{ID: c.ID, Operator: fingerprint, Signature: signature}
	return after, s.do(ctx, route, request, &after)
}

func (a *app) ceremonyList() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "list", Short: "list open ceremonies, or all, newest first", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			var list api.Ceremonies
			if err := a.ask(ctx, api.CeremonyList, api.CeremonyListQuery{Open: !all}, &list); err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) {
				row(w, "ID", "KIND", "STATE", "APPROVALS", "EXPIRES", "REASON")
				for _, l := range list.Ceremonies {
					row(w, l.ID, l.Kind, stateOf(l), fmt.Sprintf("%d/%d", len(l.Approvals), l.Needed), when(l.ExpiresAt), l.Reason)
				}
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "also those that have ended")
	return c
}

func stateOf(c api.Ceremony) string {
	if c.Outcome != "" {
		return c.Outcome
	}
	return c.State
}

func (a *app) ceremonyShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "show what a ceremony is about, and what it would change", Args: cobra.ExactArgs(1),
		Example: "  nodectl ceremony show 74415eeb",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.end(ctx)
			found, err := s.ceremony(ctx, args[0])
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.show(found, nil)
			}
			return s.explain(ctx, a.out, found)
		},
	}
}

func (s *session) ceremony(ctx context.Context, id string) (api.Ceremony, error) {
	var found api.Ceremony
	err := s.do(ctx, api.CeremonyShow, api.CeremonyQuery{ID: id}, &found)
	return found, err
}

func (a *app) ceremonyApprove() *cobra.Command {
	c := &cobra.Command{
		Use: "approve ID", Short: "show a ceremony, and sign it",
		Long: `Shows what the ceremony is about and the difference to what is, read from the
exact bytes that are signed, and signs them with your key. Shares move only when
enough operators have signed.`,
		Example: "  nodectl ceremony list\n  nodectl ceremony approve 74415eeb",
		Args:    cobra.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return a.decide(c, args[0], true) },
	}
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return c
}

func (a *app) ceremonyDeny() *cobra.Command {
	c := &cobra.Command{
		Use: "deny ID", Short: "show a ceremony, and sign against it: it ends", Args: cobra.ExactArgs(1),
		Example: "  nodectl ceremony deny 74415eeb",
		RunE:    func(c *cobra.Command, args []string) error { return a.decide(c, args[0], false) },
	}
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return c
}

func (a *app) decide(c *cobra.Command, id string, approve bool) error {
	ctx, cancel := a.context(c)
	defer cancel()
	s, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer s.end(ctx)
	found, err := s.ceremony(ctx, id)
	if err != nil {
		return err
	}
	if err := s.explain(ctx, a.err, found); err != nil {
		return err
	}
	if found.State == api.CeremonyDone || found.State == api.CeremonyFailed {
		return hint("nodectl ceremony list has those that are open", fmt.Errorf("ceremony %s has ended: %s", found.ID, stateOf(found)))
	}
	route, domain, verb := api.CeremonyDeny, fsm.DomainDeny, "deny"
	if approve {
		route, domain, verb = api.CeremonyApprove, fsm.DomainApproval, "approve"
		set, err := s.pin(ctx)
		if err != nil {
			return err
		}
		o, err := s.readOpen(ctx, set, found)
		if err != nil {
			return hint("do not approve it; ask the other operators", err)
		}
		if err := checkExpired(o, clockSlack); err != nil {
			return hint("open another one; where this one should have time left, set the clock that is wrong", fmt.Errorf("%w. Clocks: %s", err, s.clocks(ctx)))
		}
	}
	if approve || a.asked() { // a denial gives nothing away
		if err := a.confirm(verb + " ceremony " + found.ID); err != nil {
			return err
		}
	}
	after, err := s.sign(ctx, route, domain, found)
	if err != nil {
		return err
	}
	if approve {
		a.say("approved: %d of %d", len(after.Approvals), after.Needed)
	} else {
		a.say("denied")
	}
	return a.show(after, func(w io.Writer) { row(w, after.ID) })
}
