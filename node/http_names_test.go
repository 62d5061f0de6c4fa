package node

import (
	"strings"
	"testing"

	"github.com/keycustodian/keycustodian/node/api"
)

// What is there twice is refused, wherever it is; what only looks alike is not.
func TestBodiesNameEverythingOnce(t *testing.T) {
	for body, twice := range map[string]bool{
		`{"name":"k","type":"ed25519","labels":{"a":"1","A":"2"},"usage":["sign","sign"]}`: false,
		`{"name":"k","name":"k"}`:                              true,
		`{"name":"k","NAME":"l"}`:                              true,
		`{"labels":{"a":"1","b":"2","a":"1"}}`:                 true,
		`{"labels":null,"clients":[],"usage":null,"copies":1}`: false,
		`null`: false,
	} {
		err := decodeBody([]byte(body), &api.KeyCreateRequest{})
		if twice != (err != nil) || twice && !strings.Contains(err.Error(), "twice") {
			t.Errorf("%s: %v", body, err)
		}
	}
	nested := []byte(`{"reason":"r","policy":{"copies":1,"copies":2}}`)
	if err := decodeBody(nested, &api.GovernRequest{}); err == nil || !strings.Contains(err.Error(), `"copies" is there twice`) {
		t.Errorf("%s: %v", nested, err)
	}
	listed := []byte(`{"reason":"r","add":[{"name":"a"},{"name":"b","name":"c"}]}`)
	if err := decodeBody(listed, &api.GovernRequest{}); err == nil || !strings.Contains(err.Error(), `"name" is there twice`) {
		t.Errorf("%s: %v", listed, err)
	}
}
