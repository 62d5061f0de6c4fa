package fsm

import (
	"slices"

	"github.com/keycustodian/keycustodian/dkek"
)

// checkForm refuses an Open that holds what has no place in its kind. It needs no
// state, so that whoever reads an Open asks it: the state, a holder that is to
// release, and the operator's side before it signs. A holder that left it to the
// state would leave it to the leader.
func (o *Open) checkForm() *Error {
	shares := o.Kind == CeremonyCreate || o.Kind == CeremonyReshare
	fills := o.Kind == CeremonyProvision || o.Kind == CeremonyDrill
	switch {
	case !shares && !fills && o.Kind != CeremonyGovern:
		return refuse(BadRequest, "unknown kind of ceremony %d", o.Kind)
	case shares != (o.Plan != nil):
		return refuse(BadRequest, "a plan belongs to create and reshare, and only there")
	case o.Successor != nil && o.Kind != CeremonyProvision:
		return refuse(BadRequest, "only a provision names a successor")
	case o.Cites != nil && o.Kind != CeremonyReshare:
		return refuse(BadRequest, "only a reshare cites a provision")
	case (o.Proposal != nil) != (o.Kind == CeremonyGovern):
		return refuse(BadRequest, "a proposal belongs to govern, and only there")
	case o.Sample < 0 || o.Sample > MaxSample || o.Sample > 0 && o.Kind != CeremonyDrill:
		return refuse(BadRequest, "a sample belongs to drill: %d blobs at most", MaxSample)
	case o.Kind == CeremonyGovern && (len(o.Recipients) > 0 || o.Source != (SharingRef{})):
		return refuse(BadRequest, "a govern ceremony moves no shares")
	case fills && len(o.Recipients) != 1:
		return refuse(BadRequest, "a %s has one recipient", o.Kind)
	case shares:
		return o.checkRecipients()
	}
	return nil
}

// checkRecipients wants the new holders as recipients, under the keys that the plan
// names: a reshare that cites a provision stands on approvals of its holders only.
func (o *Open) checkRecipients() *Error {
	var named []dkek.Holder
	for _, entry := range o.Recipients {
		var r RecipientStatement
		if err := entry.peek(&r); err != nil {
			return err
		}
		named = append(named, r.Node)
	}
	if !slices.Equal(named, o.Plan.Holders) {
		return refuse(BadRequest, "every new holder is a recipient, and nobody else")
	}
	return nil
}
