package client

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
)

// FuzzAnswers: whatever a node, or something in between, answers on any route, is
// read as what the route says, or is an error with a code.
func FuzzAnswers(f *testing.F) {
	routes := api.Routes()
	for i, route := range routes {
		if route.Response != nil {
			seed, err := json.Marshal(route.Response)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(i, 200, seed)
		}
	}
	refused, err := json.Marshal(&api.Error{Code: api.CodeSealed, Message: "no", Hint: "h", Node: "n"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(0, 503, refused)
	f.Add(0, 502, []byte("<html>Bad Gateway</html>"))
	f.Add(0, 500, []byte("null"))
	f.Fuzz(func(t *testing.T, i, status int, body []byte) {
		if i < 0 || i >= len(routes) {
			return
		}
		if status/100 != 2 {
			var said *api.Error
			err := parseError(status, body)
			if !errors.As(err, &said) || said.Code == "" {
				t.Fatalf("%d %q: an error without a code: %v", status, body, err)
			}
			return
		}
		if routes[i].Response == nil {
			return
		}
		answer := reflect.New(reflect.TypeOf(routes[i].Response)).Interface()
		if parseAnswer(body, answer) != nil {
			return
		}
		again, err := json.Marshal(answer)
		if err == nil && parseAnswer(again, reflect.New(reflect.TypeOf(routes[i].Response)).Interface()) != nil {
			t.Fatalf("%s: %q was read, and not when it was written again: %s", routes[i].Name, body, again)
		}
	})
}
