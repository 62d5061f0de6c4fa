package hsmtest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
)

// Op names a method of hsm.Device.
type Op string

// The methods of hsm.Device but Capabilities.
const (
	OpInfo        Op = "Info"
	OpInitialise  Op = "Initialise"
	OpImportShare Op = "ImportShare"
	OpDKEK        Op = "DKEK"
	OpGenerate    Op = "Generate"
	OpList        Op = "List"
	OpDelete      Op = "Delete"
	OpWrap        Op = "Wrap"
	OpUnwrap      Op = "Unwrap"
	OpSync        Op = "Sync"
	OpSign        Op = "Sign"
	OpDecrypt     Op = "Decrypt"
	OpECDH        Op = "ECDH"
	OpSeal        Op = "Seal"
	OpOpen        Op = "Open"
	OpCMAC        Op = "CMAC"
	OpRandom      Op = "Random"
	OpLogin       Op = "Login"
	OpTries       Op = "Tries"
	OpChangePIN   Op = "ChangePIN"
	OpUnblockPIN  Op = "UnblockPIN"
	OpClose       Op = "Close"
)

// Flavour is how an operation fails.
type Flavour int

const (
	// NotDone fails without touching the device.
	NotDone Flavour = iota
	// DoneButFailed does the operation and reports a failure.
	DoneButFailed
	// HangBefore waits until the call's context ends and does nothing, like a
	// card that stopped answering. Close, which has none, fails at once.
	HangBefore
	// HangAfter does the operation and then waits until the context ends.
	HangAfter
	// Slow fails nothing: the operation is done after the plan's delay.
	Slow
)

// ErrInjected is what a plan without an error of its own reports. It is no
// *hsm.Error: its outcome is unknown to the caller.
var ErrInjected = errors.New("hsmtest: injected failure")

// Plan says which calls fail and how. The zero plan fails the next call.
type Plan struct {
	Op      Op       // empty: any
	Slot    hsm.Slot // 0: any
	Skip    int      // so many calls that fit go well first
	Times   int      // so many fail then; 0 is 1, negative is for ever
	Flavour Flavour
	Delay   time.Duration // slept first, virtual time in a synctest bubble
	Err     error         // nil: ErrInjected
}

// Call is one call of a device.
type Call struct {
	Op     Op
	Slot   hsm.Slot // 0 where the operation has none
	Number int      // of the calls of this Op, from 1
}

// Faulty is a device with faults. Its methods may be called concurrently.
type Faulty struct {
	device hsm.Device

	mu     sync.Mutex
	plans  []Plan
	calls  map[Op]int
	before func(Call)
	after  func(Call, error)
}

var _ hsm.Device = (*Faulty)(nil)

// Fault wraps a device so that calls fail as planned. Where several plans fit a
// call, the first one counts it.
func Fault(device hsm.Device, plans ...Plan) *Faulty {
	f := &Faulty{device: device, calls: map[Op]int{}}
	f.Plan(plans...)
	return f
}

// Plan adds plans after those that are left.
func (f *Faulty) Plan(plans ...Plan) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range plans {
		if p.Times == 0 {
			p.Times = 1
		}
		f.plans = append(f.plans, p)
	}
}

// Heal drops all plans. Calls that hang go on hanging.
func (f *Faulty) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plans = nil
}

// Pending is how many plans have not failed all they were to fail; those for
// ever do not count.
func (f *Faulty) Pending() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, p := range f.plans {
		if p.Times > 0 {
			n++
		}
	}
	return n
}

// Calls is how many calls of op began; of all operations where op is empty.
func (f *Faulty) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if op != "" {
		return f.calls[op]
	}
	n := 0
	for _, count := range f.calls {
		n += count
	}
	return n
}

// Hook has before called at the start of every call and after at its end, with
// what it reports. Either may be nil, may block, and may call the device.
func (f *Faulty) Hook(before func(Call), after func(Call, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

// Unwrapped returns the device inside, without faults.
func (f *Faulty) Unwrapped() hsm.Device { return f.device }

// begin counts a call and returns the plan that it falls under, if any.
func (f *Faulty) begin(op Op, slot hsm.Slot) (call Call, plan *Plan, before func(Call), after func(Call, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
	call = Call{op, slot, f.calls[op]}
	for i := range f.plans {
		p := &f.plans[i]
		if p.Op != "" && p.Op != op || p.Slot != 0 && p.Slot != slot {
			continue
		}
		if p.Skip > 0 {
			p.Skip--
			break
		}
		hit := *p
		if p.Times > 0 {
			if p.Times--; p.Times == 0 {
				f.plans = append(f.plans[:i:i], f.plans[i+1:]...)
			}
		}
		plan = &hit
		break
	}
	return call, plan, f.before, f.after
}

// run does one call under its plan. discard frees a result that is not handed
// on.
func run[T any](ctx context.Context, f *Faulty, op Op, slot hsm.Slot, do func() (T, error), discard func(T)) (T, error) {
	call, plan, before, after := f.begin(op, slot)
	if before != nil {
		before(call)
	}
	result, err := apply(ctx, plan, do, discard)
	if after != nil {
		after(call, err)
	}
	return result, err
}

func apply[T any](ctx context.Context, plan *Plan, do func() (T, error), discard func(T)) (T, error) {
	var none T
	if plan == nil {
		return do()
	}
	if plan.Delay > 0 {
		timer := time.NewTimer(plan.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return none, ctx.Err()
		}
	}
	failure := plan.Err
	if failure == nil {
		failure = ErrInjected
	}
	switch plan.Flavour {
	case Slow:
		return do()
	case DoneButFailed, HangAfter:
		result, err := do()
		if err != nil {
			return none, err // it really failed
		}
		if discard != nil {
			discard(result)
		}
	}
	if (plan.Flavour == HangBefore || plan.Flavour == HangAfter) && ctx.Done() != nil {
		<-ctx.Done()
		return none, ctx.Err()
	}
	return none, failure
}
