package api_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
)

// Every route has one name and one pattern, says who may ask, and does not ask
// for two kinds of body.
func TestRoutesAreSound(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range api.Routes() {
		for _, id := range []string{r.Name, r.Pattern()} {
			if seen[id] {
				t.Errorf("%s is there twice", id)
			}
			seen[id] = true
		}
		if len(r.Who) == 0 || r.Doc == "" {
			t.Errorf("%s: nobody may ask, or nobody knows what for", r.Name)
		}
		if r.Request != nil && r.Secrets != nil || r.Method == "GET" && (r.Request != nil || r.Changes) {
			t.Errorf("%s: wrong body", r.Name)
		}
		if r.Verb != "" && (!r.May(api.User) || !slices.Contains(api.Verbs(), r.Verb)) {
			t.Errorf("%s: a verb that no user has", r.Name)
		}
		if r.May(api.User) && !r.May(api.Operator) {
			t.Errorf("%s: an operator may do what a user may", r.Name)
		}
	}
}

// Secrets enter over the socket only, and never as JSON.
func TestSecretsStayOnTheSocket(t *testing.T) {
	for _, r := range api.Routes() {
		if r.Secrets != nil && !reflect.DeepEqual(r.Who, []api.Who{api.Socket}) {
			t.Errorf("%s takes secrets from %v", r.Name, r.Who)
		}
		for _, body := range []any{r.Request, r.Response} {
			if body == nil {
				continue
			}
			for _, f := range reflect.VisibleFields(reflect.TypeOf(body)) {
				name := strings.ToLower(f.Name)
				if strings.Contains(name, "secret") || name == "pin" || name == "sopin" || strings.Contains(name, "private") {
					t.Errorf("%s: %s looks like a secret in JSON", r.Name, f.Name)
				}
			}
		}
	}
}

// Exit 3 is for what a later try may find better, and nothing else.
func TestCodesMeanSomething(t *testing.T) {
	for _, c := range api.Codes() {
		if c.Status() < 400 || c.Exit() == api.ExitDone {
			t.Errorf("%s is no failure", c)
		}
		if retry := c == api.CodeSealed || c == api.CodeNoQuorum || c == api.CodeStale; retry != (c.Exit() == api.ExitRetry) {
			t.Errorf("%s exits with %d", c, c.Exit())
		}
	}
	if c := api.Code("?"); c.Known() || c.Status() != 500 || c.Exit() != api.ExitFailed {
		t.Error("an unknown code is not an internal failure")
	}
	err := fmt.Errorf("op: %w", &api.Error{Code: api.CodeSealed, Message: "sealed"})
	if !errors.Is(err, &api.Error{Code: api.CodeSealed}) || errors.Is(err, &api.Error{Code: api.CodeNoQuorum}) {
		t.Error("errors.Is does not ask for the code")
	}
}

func TestQueryRoundTrip(t *testing.T) {
	for _, q := range []any{
		api.KeyListQuery{Prefix: "db/", After: "db/a&b", Limit: 7, Label: "a=b"},
		api.CeremonyQuery{ID: "ab", After: 1 << 63, WaitSeconds: 30},
		api.CeremonyListQuery{Open: true},
	} {
		back := reflect.New(reflect.TypeOf(q))
		values, err := url.ParseQuery(api.EncodeQuery(q).Encode())
		if err != nil {
			t.Fatal(err)
		}
		if err := api.DecodeQuery(values, back.Interface()); err != nil {
			t.Error(err)
		}
		if !reflect.DeepEqual(back.Elem().Interface(), q) {
			t.Errorf("%+v came back as %+v", q, back.Elem())
		}
	}
	for _, bad := range []string{"nme=a", "limit=x", "limit=1&limit=2", "limit=99999999999"} {
		values, _ := url.ParseQuery(bad)
		if err := api.DecodeQuery(values, &api.KeyListQuery{}); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestSecretsRoundTrip(t *testing.T) {
	body, err := api.EncodeSecrets([]byte("648219"), nil, bytes.Repeat([]byte{'\n'}, 32))
	if err != nil {
		t.Fatal(err)
	}
	got, err := api.ReadSecrets(bytes.NewReader(body), 3)
	if err != nil || string(got[0]) != "648219" || len(got[1]) != 0 || len(got[2]) != 32 {
		t.Errorf("%q, %v", got, err)
	}
	for _, n := range []int{2, 4} {
		if _, err := api.ReadSecrets(bytes.NewReader(body), n); !errors.Is(err, api.ErrSecrets) {
			t.Errorf("%d secrets of 3: %v", n, err)
		}
	}
	if _, err := api.EncodeSecrets(make([]byte, api.MaxSecret+1)); err == nil {
		t.Error("an endless secret was encoded")
	}
}

func FuzzReadSecrets(f *testing.F) {
	f.Add([]byte{0, 1, 'a', 0, 0}, 2)
	f.Add([]byte{0xff, 0xff}, 1)
	f.Fuzz(func(t *testing.T, body []byte, n int) {
		if n < 0 || n > 4 {
			return
		}
		secrets, err := api.ReadSecrets(bytes.NewReader(body), n)
		if err != nil {
			return
		}
		again, err := api.EncodeSecrets(secrets...)
		if err != nil || !bytes.Equal(again, body) {
			t.Errorf("%x read as %q", body, secrets)
		}
	})
}

func FuzzDecodeQuery(f *testing.F) {
	f.Add("prefix=a&limit=3")
	f.Fuzz(func(t *testing.T, text string) {
		if values, err := url.ParseQuery(text); err == nil {
			api.DecodeQuery(values, &api.KeyListQuery{})
		}
	})
}

// Package names are for Go; people get one line without them.
func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		"node: create key k: node: propose: node: no leader": "create key k: propose: no leader",
		"node: hsm: fsm: there is a key k already":           "there is a key k already",
		"node: outcome unknown\nhsm: device: broken pipe":    "outcome unknown; device: broken pipe",
		"the node: x, a client: y (secret: z)":               "the node: x, a client: y (z)",
	} {
		if got := api.Plain(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
