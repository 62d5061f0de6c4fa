package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

const (
	// clockSlack is how far the clocks of nodectl and the log may be apart unless
	// said otherwise: a wrong time zone, and what came to it since.
	clockSlack = time.Hour + 5*time.Minute
	// clockWorth is how far a clock is off before it is worth a word.
	clockWorth = 10 * time.Second
)

// expiryError refuses to sign what expires at another time than was asked for:
// some clock is wrong, or a node lies about it.
type expiryError struct {
	text string
	over time.Duration // how much longer it lasts than was asked for
}

func (e *expiryError) Error() string { return e.text }

// checkExpired refuses what is over by this machine's clock.
func checkExpired(o *fsm.Open, slack time.Duration) error {
	if late := time.Since(time.UnixMilli(o.Expires)); late > slack {
		return &expiryError{text: fmt.Sprintf("it expired at %s, %v ago by this machine's clock", when(time.UnixMilli(o.Expires)), late.Round(time.Second))}
	}
	return nil
}

// checkExpiry compares when a ceremony expires with what was asked for: an
// approval lasts as long as it.
func (f *ceremonyFlags) checkExpiry(o *fsm.Open) error {
	left := time.Until(time.UnixMilli(o.Expires))
	if left > f.expires+f.apart {
		return &expiryError{over: left - f.expires, text: fmt.Sprintf("the node made it expire at %s, in %v by this machine's clock, and %v was asked for", when(time.UnixMilli(o.Expires)), left.Round(time.Second), f.expires)}
	}
	return checkExpired(o, f.apart)
}

// takeBack denies a ceremony that was opened for the caller and that nodectl does
// not sign, so that it is not in the way of the next one, and says which clock is
// wrong as far as the node knows.
func (s *session) takeBack(ctx context.Context, c api.Ceremony, f ceremonyFlags, cause *expiryError) error {
	said := fmt.Errorf("%w. Clocks differ: %s", cause, s.clocks(ctx))
	way := "set the clock that is wrong, see why its time synchronisation does not (timedatectl), and try again"
	if over := cause.over; over > 0 && over < fsm.MaxCeremonyTime {
		accept := (over + time.Minute).Truncate(time.Minute) + time.Minute
		way += fmt.Sprintf("; the log's time never goes back: until the clocks have reached it, --clocks-apart %v accepts that a ceremony is open for so much longer", accept)
	}
	if _, err := s.sign(ctx, api.CeremonyDeny, fsm.DomainDeny, c); err != nil {
		return hint(way+"; deny this one: nodectl ceremony deny "+c.ID, fmt.Errorf("%w. It stays open: it could not be denied: %v", said, err))
	}
	return hint(way, fmt.Errorf("%w. Nothing was signed but a denial of ceremony %s, which has ended it", said, c.ID))
}

// clocks says what the clocks are, as the node that answers sees them.
func (s *session) clocks(ctx context.Context) string {
	var st api.Status
	asked := time.Now()
	if err := s.wait(ctx, api.ClusterStatus, nil, &st); err != nil {
		return "which, no node could be asked: " + api.Plain(err.Error())
	}
	here := asked.Add(time.Since(asked) / 2)
	said := []string{"here it is " + when(here)}
	if !st.Node.Time.IsZero() {
		said = append(said, fmt.Sprintf("at %.63s %s", st.Node.Name, againstHere(st.Node.Time, here)))
	}
	if !st.LogTime.IsZero() {
		said = append(said, "by the log's time "+againstHere(st.LogTime, here))
	}
	for _, m := range st.Members {
		if off := m.ClockAheadSeconds; off != nil && math.Abs(*off) > clockWorth.Seconds() && math.Abs(*off) < math.MaxInt32 {
			said = append(said, fmt.Sprintf("%.63s's clock is %s most members'", m.Name, ahead(time.Duration(*off)*time.Second)))
		}
	}
	return strings.Join(said, "; ")
}

func againstHere(t, here time.Time) string {
	if off := t.Sub(here); off.Abs() > clockWorth {
		return fmt.Sprintf("%s, %s that", when(t), ahead(off))
	}
	return "the same"
}

func ahead(d time.Duration) string {
	if d < 0 {
		return (-d).Round(time.Second).String() + " behind"
	}
	return d.Round(time.Second).String() + " ahead of"
}

// wordStart is what the end of an operator's word about a device counts from: the
// cluster's time, where that is ahead of this machine's clock by no more than
// clocks may be apart. The node whose device it is goes by the later of both.
func (s *session) wordStart(ctx context.Context) time.Time {
	now := time.Now()
	var st api.Status
	if err := s.wait(ctx, api.ClusterStatus, nil, &st); err != nil {
		return now
	}
	for _, t := range []time.Time{st.LogTime, st.Node.Time} {
		if t.After(now) && t.Sub(now) <= clockSlack {
			now = t
		}
	}
	return now
}
