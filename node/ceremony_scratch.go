package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
)

// scratchDevice is a software device in memory that holds the DKEK for as long as
// it takes to compare its check value.
type scratchDevice struct {
	hsm.Device
	info hsm.Info
	kcv  dkek.KCV
}

// newScratch combines a quorum in a blank device.
func newScratch(ctx context.Context, blank hsm.Device, g *gathering, quorum []dkek.NodeID) (*scratchDevice, error) {
	s := &scratchDevice{Device: blank}
	if err := s.fill(ctx, g, quorum); err != nil {
		s.close()
		return nil, fmt.Errorf("node: scratch device: %w", err)
	}
	return s, nil
}

func (s *scratchDevice) fill(ctx context.Context, g *gathering, quorum []dkek.NodeID) error {
	pin, soPIN := scratchPIN(15), scratchPIN(16)
	defer pin.Wipe()
	defer soPIN.Wipe()
	if err := s.Initialise(ctx, hsm.InitOptions{Label: "scratch", PIN: pin, SOPIN: soPIN, Shares: len(quorum)}); err != nil {
		return err
	}
	if err := s.Login(ctx, pin); err != nil {
		return err
	}
	put := func(partial *dkek.Secret) error {
		_, err := s.ImportShare(ctx, partial)
		return err
	}
	if err := importQuorum(g, quorum, false, put); err != nil {
		return err
	}
	status, err := s.DKEK(ctx)
	if err != nil {
		return err
	}
	if status.Missing != 0 {
		return errors.New("shares are missing after all were imported")
	}
	s.kcv = dkek.KCV(status.KCV)
	s.info, err = s.Info(ctx)
	return err
}

// scratchPIN draws a PIN of n digits that nobody will need again.
func scratchPIN(n int) *hsm.Secret {
	digits := make([]byte, n)
	rand.Read(digits)
	for i := range digits {
		digits[i] = '0' + digits[i]%10
	}
	return hsm.NewSecret(digits)
}

// close ends the device and what it held.
func (s *scratchDevice) close() { s.Close() }

// sample brings so many keys, drawn at random, back from their blobs and proves
// each.
func (s *scratchDevice) sample(ctx context.Context, view *fsm.View, count int) (proven, failed int, first error) {
	for _, version := range s.draw(view, count) {
		if err := s.restore(ctx, view, version); err != nil {
			failed++
			if first == nil {
				first = err
			}
			continue
		}
		proven++
	}
	return proven, failed, first
}

// draw draws so many of the versions that can come back here, or all of them.
func (s *scratchDevice) draw(view *fsm.View, count int) []*fsm.Version {
	var drawn []*fsm.Version
	capabilities, seen := s.Capabilities(), 0
	for version := range view.AllVersions(fsm.VersionRef{}) {
		if key, ok := view.KeyByID(version.Key); !version.State.Live() || ok && !capabilities.Supports(key.Type) {
			continue
		}
		seen++
		if len(drawn) < count {
			drawn = append(drawn, version)
		} else if at := mathrand.IntN(seen); at < count {
			drawn[at] = version
		}
	}
	return drawn
}

func (s *scratchDevice) restore(ctx context.Context, view *fsm.View, version *fsm.Version) error {
	const slot = 1
	key, ok := view.KeyByID(version.Key)
	if !ok {
		return fmt.Errorf("node: version %d of key %v has no key", version.N, version.Key)
	}
	public, err := parsePublic(version.Material.Public)
	if err != nil {
		return err
	}
	if _, err := s.Unwrap(ctx, slot, version.Material.Blob, hsm.Attributes{}); err != nil {
		return fmt.Errorf("node: %s@%d does not come back: %w", key.Name, version.N, err)
	}
	room := &deviceRoom{token: hsm.Token{Device: s.Device}}
	return errors.Join(room.prove(ctx, slot, key, version, public), s.Delete(ctx, slot))
}
