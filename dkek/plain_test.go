package dkek_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/internal/secret"
)

func TestPlainSharesReconstruct(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(2, 20).Draw(r, "n")
		threshold := rapid.IntRange(2, n).Draw(r, "t")
		whole := secret.Random(dkek.Size)
		shares, err := dkek.Split(whole, n, threshold)
		check(r, err)
		some := rapid.Permutation(shares).Draw(r, "order")[:rapid.IntRange(threshold, n).Draw(r, "count")]
		var read []*dkek.PlainShare
		for i, share := range some { // on paper and back, or in a file and back
			form, err := share.Binary()
			if i%2 == 0 {
				form, err = share.Text()
			}
			check(r, err)
			back, err := dkek.ParsePlainShare(form)
			check(r, err)
			read = append(read, back)
		}
		got, err := dkek.Reconstruct(read)
		check(r, err)
		if !got.Equal(whole) {
			r.Fatalf("another DKEK")
		}
		_, err = dkek.Reconstruct(some[:threshold-1])
		refused(r, err, dkek.TooFew, nobody, nobody)
	})
}

func TestPlainDefaults(t *testing.T) {
	shares, err := dkek.Split(secret.Random(dkek.Size), 0, 0)
	check(t, err)
	if len(shares) != 5 || shares[0].Threshold() != 3 {
		t.Fatalf("%d shares with threshold %d, want 5 and 3", len(shares), shares[0].Threshold())
	}
	for _, c := range [][2]int{{1, 1}, {5, 1}, {3, 4}, {256, 3}, {-1, 2}, {5, -2}, {2, 0}} {
		if _, err := dkek.Split(secret.Random(dkek.Size), c[0], c[1]); err == nil {
			t.Errorf("%d shares with threshold %d were made", c[0], c[1])
		}
	}
	_, err = dkek.Split(secret.Random(16), 5, 3)
	refused(t, err, dkek.BadLength, nobody, nobody)
}

func TestPlainShareRefusals(t *testing.T) {
	whole := secret.Random(dkek.Size)
	a, err := dkek.Split(whole, 5, 3)
	check(t, err)
	b, err := dkek.Split(whole, 5, 3) // of the same DKEK, still another set
	check(t, err)
	for _, c := range []struct {
		name   string
		shares []*dkek.PlainShare
		reason dkek.Reason
	}{
		{"none", nil, dkek.TooFew},
		{"too few", a[:2], dkek.TooFew},
		{"the same twice", []*dkek.PlainShare{a[0], a[1], a[1]}, dkek.Duplicate},
		{"mixed", []*dkek.PlainShare{a[0], a[1], b[2]}, dkek.WrongSharing},
	} {
		_, err := dkek.Reconstruct(c.shares)
		if !errors.Is(err, c.reason) {
			t.Errorf("%s: %v, want %q", c.name, err, c.reason)
		}
	}
	a[4].Wipe()
	_, err = dkek.Reconstruct([]*dkek.PlainShare{a[0], a[1], a[4]})
	refused(t, err, dkek.Wiped, nobody, nobody)
}

// One wrong letter on paper, or bit in a file, is noticed before anything is
// combined; layout and case do not matter.
func TestPlainShareOneWrongLetter(t *testing.T) {
	shares, err := dkek.Split(secret.Random(dkek.Size), 3, 2)
	check(t, err)
	form, err := shares[0].Text()
	check(t, err)
	text := string(reveal(form))
	for i := range text {
		if text[i] == '-' {
			continue
		}
		wrong := []byte(text)
		wrong[i] = 'A'
		if text[i] == 'A' {
			wrong[i] = 'B'
		}
		if _, err := dkek.ParsePlainShare(secret.Take(wrong)); !errors.Is(err, dkek.Damaged) && !errors.Is(err, dkek.BadFormat) {
			t.Fatalf("letter %d: %v", i, err)
		}
	}
	parse := func(text string) error {
		_, err := dkek.ParsePlainShare(secret.Take([]byte(text)))
		return err
	}
	check(t, parse(strings.ToLower(strings.ReplaceAll(text, "-", " \n"))))
	refused(t, parse(text[:len(text)-1]), dkek.Truncated, nobody, nobody)
	refused(t, parse(text+"A"), dkek.BadLength, nobody, nobody)
	refused(t, parse(strings.Repeat(text, 9)), dkek.BadLength, nobody, nobody)
	refused(t, parse(strings.Replace(text, text[20:21], "1", 1)), dkek.Damaged, nobody, nobody)
	refused(t, parse(""), dkek.BadFormat, nobody, nobody)

	form, err = shares[0].Binary()
	check(t, err)
	binary := reveal(form)
	for bit := range len(binary) * 8 {
		wrong := bytes.Clone(binary)
		wrong[bit/8] ^= 1 << (bit % 8)
		// In the magic, a flip can make it look like the beginning of the text form.
		_, err := dkek.ParsePlainShare(secret.Take(wrong))
		if !errors.Is(err, dkek.Damaged) && !(bit < 64 && (errors.Is(err, dkek.BadFormat) || errors.Is(err, dkek.Truncated))) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
	refused(t, parse(string(binary[:65])), dkek.Truncated, nobody, nobody)
	refused(t, parse(string(binary)+"x"), dkek.BadLength, nobody, nobody)
}

// A cluster's share does not fit the plain path, nor a plain share the
// cluster's.
func TestPlainAndClusterSharesDoNotMix(t *testing.T) {
	s := deal(t, firstPlan(2, 2), nil)
	content, err := s.bundles[id(1)].SealAtRest(newBox(t, 1), s.Sharing)
	check(t, err)
	_, err = dkek.ParsePlainShare(secret.Take(content))
	refused(t, err, dkek.WrongKind, nobody, nobody)
	shares, err := dkek.Split(secret.Random(dkek.Size), 3, 2)
	check(t, err)
	form, err := shares[0].Binary()
	check(t, err)
	_, err = dkek.OpenAtRest(newBox(t, 1), append(reveal(form), make([]byte, 200)...), s.Sharing, id(1))
	refused(t, err, dkek.BadFormat, id(1), nobody)
}

// Somebody who fixes the checksum still gets nothing past the check value.
func TestForgedPlainShares(t *testing.T) {
	shares, err := dkek.Split(secret.Random(dkek.Size), 3, 2)
	check(t, err)
	form, err := shares[0].Binary()
	check(t, err)
	binary := reveal(form)
	forged := func(change func([]byte)) (*dkek.PlainShare, error) {
		b := bytes.Clone(binary)
		change(b)
		sum := sha256.Sum256(b[:58])
		copy(b[58:], sum[:])
		return dkek.ParsePlainShare(secret.Take(b))
	}
	_, err = forged(func(b []byte) { b[25] = 0 })
	refused(t, err, dkek.ZeroX, nobody, nobody)
	_, err = forged(func(b []byte) { b[16] = 1 })
	refused(t, err, dkek.BadFormat, nobody, nobody)
	_, err = forged(func(b []byte) { b[7] = '2' })
	refused(t, err, dkek.BadFormat, nobody, nobody)
	bad, err := forged(func(b []byte) { b[30] ^= 1 }) // y
	check(t, err)
	_, err = dkek.Reconstruct([]*dkek.PlainShare{bad, shares[1]})
	refused(t, err, dkek.WrongKCV, nobody, nobody)
	bad, err = forged(func(b []byte) { b[16]++ }) // threshold
	check(t, err)
	_, err = dkek.Reconstruct([]*dkek.PlainShare{bad, shares[1]})
	refused(t, err, dkek.WrongSharing, nobody, nobody)
}
