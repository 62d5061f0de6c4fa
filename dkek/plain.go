package dkek

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// PlainShare is one of n shares of a whole DKEK for people to keep, of which t
// reconstruct it. It has nothing to do with a cluster's sharing, and a cluster's
// share is not one. Wipe it after use.
type PlainShare struct {
	hidden
	set       SetID
	threshold int
	kcv       KCV
	point     *Secret // y (32) || x (1)
}

// SetID tells the shares of one [Split] from those of any other.
type SetID [8]byte

func (id SetID) String() string { return hex.EncodeToString(id[:]) }

// Split makes n shares of a DKEK with threshold t: n from 2 to 255, t from 2 to
// n; zero means [DefaultShares] and [DefaultThreshold].
func Split(s *Secret, n, t int) ([]*PlainShare, error) {
	if n == 0 {
		n = DefaultShares
	}
	if t == 0 {
		t = DefaultThreshold
	}
	if n > maxPlainShares || t < 2 || t > n {
		return nil, fmt.Errorf("dkek: split: %d shares with threshold %d: wants 2 <= threshold <= shares <= %d", n, t, maxPlainShares)
	}
	if s.Len() != Size {
		return nil, &ShareError{Op: "split", Reason: BadLength, Detail: "a DKEK has 32 bytes"}
	}
	points, err := split(s, n, t)
	if err != nil {
		return nil, err
	}
	var set SetID
	rand.Read(set[:])
	kcv := KCVOf(s)
	shares := make([]*PlainShare, n)
	for i := range shares {
		shares[i] = &PlainShare{set: set, threshold: t, kcv: kcv, point: points[i]}
	}
	return shares, nil
}

const opReconstruct = "reconstruct"

// Reconstruct combines the shares of one set, t or more of them, and checks the
// result against the check value that each carries. The caller wipes it.
func Reconstruct(shares []*PlainShare) (*Secret, error) {
	fail := func(share *PlainShare, reason Reason) (*Secret, error) {
		return nil, &ShareError{Op: opReconstruct, Reason: reason, Detail: share.name()}
	}
	if len(shares) == 0 {
		return nil, &ShareError{Op: opReconstruct, Reason: TooFew, Detail: "none"}
	}
	first := shares[0]
	var x []byte
	for _, share := range shares {
		switch {
		case share.point.Len() != Size+1:
			return fail(share, Wiped)
		case share.set != first.set || share.threshold != first.threshold || share.kcv != first.kcv:
			return fail(share, WrongSharing)
		case share.X() == 0:
			return fail(share, ZeroX)
		case bytes.IndexByte(x, share.X()) >= 0:
			return fail(share, Duplicate)
		}
		x = append(x, share.X())
	}
	if len(shares) < first.threshold {
		return nil, tooFew(opReconstruct, len(shares), first.threshold)
	}
	sum := secret.New(Size)
	for i, share := range shares {
		c := coefficient(x, i)
		share.point.With(func(p []byte) {
			sum.With(func(q []byte) { addScaled(q, p[:Size], c) })
		})
	}
	if KCVOf(sum) != first.kcv {
		sum.Wipe()
		return nil, &ShareError{Op: opReconstruct, Reason: WrongKCV, Detail: "set " + first.set.String()}
	}
	return sum, nil
}

// Set, Threshold and KCV are the same in all shares of one set.
func (s *PlainShare) Set() SetID     { return s.set }
func (s *PlainShare) Threshold() int { return s.threshold }
func (s *PlainShare) KCV() KCV       { return s.kcv }

// X is the share's number in its set, 1 to 255; 0 after Wipe.
func (s *PlainShare) X() byte {
	var x byte
	s.point.With(func(p []byte) {
		if len(p) == Size+1 {
			x = p[Size]
		}
	})
	return x
}

func (s *PlainShare) name() string { return fmt.Sprintf("share %d of set %v", s.X(), s.set) }

// Wipe forgets the share.
func (s *PlainShare) Wipe() { s.point.Wipe() }
