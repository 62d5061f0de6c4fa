package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
)

func sample() *api.JoinToken {
	return &api.JoinToken{Cluster: [16]byte{1}, Address: "10.0.0.1:7400", Fingerprint: [32]byte{2}, Govern: 3,
		Operators: [32]byte{4}, Secret: [32]byte{0xAB, 0xCD}}
}

func TestJoinTokenRoundTrip(t *testing.T) {
	text, err := sample().Text()
	if err != nil {
		t.Fatal(err)
	}
	got, err := api.ParseJoinToken(" " + text + "\n")
	if err != nil || *got != *sample() {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := (&api.JoinToken{}).Text(); err == nil {
		t.Error("a token without an address")
	}
}

// One wrong letter anywhere is noticed before anything is dialled.
func TestJoinTokenMistyped(t *testing.T) {
	text, _ := sample().Text()
	for i := range text {
		other := "A"
		if text[i] == 'A' {
			other = "B"
		}
		if _, err := api.ParseJoinToken(text[:i] + other + text[i+1:]); !errors.Is(err, api.ErrJoinToken) {
			t.Errorf("letter %d: %v", i, err)
		}
		if _, err := api.ParseJoinToken(text[:i]); !errors.Is(err, api.ErrJoinToken) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
}

func TestJoinTokenIsNotShown(t *testing.T) {
	token := sample()
	for _, shown := range []string{fmt.Sprint(token), fmt.Sprintf("%+v %#v %x", token, token, token)} {
		if strings.Contains(strings.ToLower(shown), "abcd") || strings.Contains(shown, "171") {
			t.Errorf("shown: %s", shown)
		}
	}
	if _, err := json.Marshal(token); err == nil {
		t.Error("encoded as JSON")
	}
}

func FuzzParseJoinToken(f *testing.F) {
	text, _ := sample().Text()
	f.Add(text)
	f.Fuzz(func(t *testing.T, text string) {
		token, err := api.ParseJoinToken(text)
		if err != nil {
			return
		}
		if again, err := token.Text(); err != nil || again != strings.TrimSpace(text) {
			t.Errorf("%q is another spelling of %q", text, again)
		}
	})
}
