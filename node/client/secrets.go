package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/keycustodian/keycustodian/node/api"
)

// Enter sends secrets to a route that takes them, over a socket, once: after
// any failure but an *[UnreachableError] the caller asks the node what it knows
// before trying again, since a wrong PIN sent twice is two wrong PINs. The caller
// wipes the secrets.
func (c *Client) Enter(ctx context.Context, name string, response any, secrets ...[]byte) (Answer, error) {
	route, ok := c.routes[name]
	if !ok || len(route.Secrets) != len(secrets) || len(secrets) == 0 {
		return Answer{}, fmt.Errorf("client: %s: no such route for %d secrets", name, len(secrets))
	}
	if c.socket == "" {
		return Answer{}, errors.New("client: secrets are entered on the node's own socket: the address must be unix:/path")
	}
	body, err := api.EncodeSecrets(secrets...)
	if err != nil {
		return Answer{}, err
	}
	once := &once{rest: body, all: body}
	defer once.wipe()
	call, err := newCall(ctx, route, nil)
	if err != nil {
		return Answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	// A reader of a type that net/http does not know: it cannot replay it.
	req, err := http.NewRequestWithContext(ctx, route.Method, c.url("", call), once)
	if err != nil {
		return Answer{}, err
	}
	req.ContentLength = int64(len(body))
	req.Header.Set("Content-Type", api.TypeSecrets)
	answer, content, err := c.send(req, call, nil, func() {})
	if err == nil {
		err = call.parse(content, response)
	}
	var said *api.Error
	switch {
	case err == nil || errors.As(err, &said):
	case call.doubtful.Load():
		err = fmt.Errorf("client: the node did not say what became of the secrets: %w", err)
	default:
		err = &UnreachableError{Tries: []error{err}}
	}
	return answer, err
}

// once is a body that is read once and wiped, also while net/http may still be
// reading it: it does not wait for that where an answer came early.
type once struct {
	mu        sync.Mutex
	rest, all []byte
}

func (o *once) Read(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, o.rest)
	o.rest = o.rest[n:]
	return n, nil
}

func (o *once) wipe() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.all)
	o.rest = nil
}
