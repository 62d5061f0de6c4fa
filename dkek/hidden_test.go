package dkek_test

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// No formatter and no encoder shows what holds a secret, by value or pointer.
func TestSecretsCannotBePrintedOrEncoded(t *testing.T) {
	plan := firstPlan(2, 2)
	s := deal(t, plan, nil)
	key := newKey(t, dkek.X25519())
	dealt, err := dkek.Deal(plan, id(1), nil)
	check(t, err)
	public := dealt.Public()
	sealed, err := dealt.SealFor(id(1), key.Public(), transcript)
	check(t, err)
	sub, err := dkek.OpenSubShare(key, sealed, transcript, plan, &public, id(1))
	check(t, err)
	gather, err := dkek.NewGather(s.Sharing, key)
	check(t, err)
	check(t, gather.AddOwn(s.bundles[id(1)]))
	shares, err := dkek.Split(secret.Random(dkek.Size), 3, 2)
	check(t, err)
	bundle := s.bundles[id(1)]
	for _, v := range []any{dealt, sub, bundle, key, gather, shares[0], shares,
		*dealt, *sub, *bundle, *key, *shares[0], struct{ B *dkek.Bundle }{bundle}} {
		t.Run(fmt.Sprintf("%T", v), func(t *testing.T) {
			var out strings.Builder
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
				fmt.Fprintf(&out, verb+"\n", v)
			}
			slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
			slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
			if !strings.Contains(out.String(), "[secret]") {
				t.Errorf("no placeholder in %q", out.String())
			}
			data := hex.EncodeToString(s.open(t, id(1))[:8])
			if strings.Contains(strings.ToLower(out.String()), data) {
				t.Errorf("prints the share")
			}
			if b, err := json.Marshal(v); err == nil {
				t.Errorf("json gives %q", b)
			}
			if b, err := cbor.Marshal(v); err == nil {
				t.Errorf("cbor gives %x", b)
			}
			if b, err := xml.Marshal(v); err == nil {
				t.Errorf("xml gives %q", b)
			}
			if err := gob.NewEncoder(&bytes.Buffer{}).Encode(v); err == nil {
				t.Errorf("gob encodes it")
			}
		})
	}
}

// No error text of a refused share has a byte of it, and each says what to do.
func TestEveryReasonSaysWhatToDo(t *testing.T) {
	for _, reason := range []dkek.Reason{dkek.TooFew, dkek.Duplicate, dkek.ZeroX, dkek.BadLength, dkek.WrongCluster,
		dkek.WrongEpoch, dkek.WrongAttempt, dkek.WrongHolder, dkek.WrongDealer, dkek.WrongSharing, dkek.NotHolder, dkek.Forged,
		dkek.Unopened, dkek.WrongSuite, dkek.WrongKind, dkek.Damaged, dkek.Truncated, dkek.BadFormat, dkek.WrongSeal,
		dkek.WrongKCV, dkek.Wiped} {
		err := &dkek.ShareError{Op: "open release", Holder: id(1), Dealer: id(2), Reason: reason, Detail: "more"}
		text := err.Error()
		if reason.Error() == string(reason) || strings.Contains(text, "see the documentation") {
			t.Errorf("%s is not explained: %s", reason, text)
		}
		for _, part := range []string{"dkek: open release: ", id(1).String(), id(2).String(), "(more): "} {
			if !strings.Contains(text, part) {
				t.Errorf("%q lacks %q", text, part)
			}
		}
	}
}
