package node

import (
	"context"
	"fmt"

	"github.com/keycustodian/keycustodian/hsm"
)

// initialise wipes the device and prepares it for so many shares. The SO-PIN is
// fetched for this call and forgotten; a SO-PIN that the device rejected before
// is not sent. Whoever calls has made sure that nothing is lost by it.
func (d *deviceRoom) initialise(ctx context.Context, label string, shares int) error {
	pin, err := d.pin(ctx)
	if err != nil {
		return fmt.Errorf("node: initialise device: %w", err)
	}
	defer pin.Wipe()
	soPIN, err := d.fetchSOPIN(ctx)
	if err != nil {
		return fmt.Errorf("node: initialise device: %w", err)
	}
	defer soPIN.Wipe()
	d.slots.close()
	defer d.suspect()
	send := func() error {
		return d.token.Initialise(ctx, hsm.InitOptions{Label: label, PIN: pin, SOPIN: soPIN, Shares: shares})
	}
	if err := d.guard(ctx, soPINKind, soPIN, send); err != nil {
		return fmt.Errorf("node: initialise device: %w", err)
	}
	// A new PIN was set, so what was rejected before says nothing any more.
	return d.rejected.forget(userPINKind)
}

// importShare hands the device one partial.
func (d *deviceRoom) importShare(ctx context.Context, share *hsm.Secret) (hsm.DKEKStatus, error) {
	defer d.suspect()
	return withLogin(ctx, d, func(device hsm.Device) (hsm.DKEKStatus, error) { return device.ImportShare(ctx, share) })
}

// dkek asks the device itself how far its DKEK is.
func (d *deviceRoom) dkek(ctx context.Context) (hsm.DKEKStatus, error) {
	return withLogin(ctx, d, func(device hsm.Device) (hsm.DKEKStatus, error) { return device.DKEK(ctx) })
}

// list enumerates the device's keys, from the device itself.
func (d *deviceRoom) list(ctx context.Context) ([]hsm.Object, error) {
	return withLogin(ctx, d, func(device hsm.Device) ([]hsm.Object, error) { return device.List(ctx) })
}

// fetchSOPIN returns the SO-PIN that was entered, once, or asks where it comes
// from.
func (d *deviceRoom) fetchSOPIN(ctx context.Context) (*hsm.Secret, error) {
	if entered := d.soPIN.Swap(nil); entered != nil {
		return entered, nil
	}
	if d.token.SOPIN == nil {
		if d.token.PIN == nil {
			return hsm.NewSecret(nil), nil // this device has none
		}
		return nil, errNoSOPIN
	}
	return d.token.SOPIN(ctx)
}

// EnterSOPIN keeps the SO-PIN for the next initialise or provision of this
// node's device, and no longer.
func (n *Node) EnterSOPIN(soPIN *hsm.Secret) error {
	if n.device == nil {
		return n.Sealed()
	}
	n.device.soPIN.Swap(soPIN.Clone()).Wipe()
	return nil
}
