package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 16 << 20

// Answer says who answered and how fresh its state is.
type Answer struct {
	// Node is the ID of the node that answered.
	Node string
	// StateAge is how long ago that node heard from a quorum; -1 if never.
	StateAge time.Duration
}

// UnreachableError means that no address answered.
type UnreachableError struct {
	// Tries has one error for each address, in the order tried.
	Tries []error
}

func (e *UnreachableError) Error() string {
	texts := make([]string, len(e.Tries))
	for i, err := range e.Tries {
		texts[i] = err.Error()
	}
	return "client: no node answers: " + strings.Join(texts, "; ")
}

func (e *UnreachableError) Unwrap() []error { return e.Tries }

// OutcomeUnknownError means that a change may have been made, or may still be:
// ask for it again under the same ID ([WithRequestID]), and it is made once.
type OutcomeUnknownError struct {
	// Request is the ID under which it was asked for, 32 hexadecimal digits.
	Request string
	// Err is why the outcome is not known.
	Err error
}

func (e *OutcomeUnknownError) Error() string {
	return "client: the outcome is unknown: " + api.Plain(e.Err.Error())
}
func (e *OutcomeUnknownError) Unwrap() error { return e.Err }

type requestIDKey struct{}

// WithRequestID makes the next change under ctx carry this ID. To try a change
// again after an unknown outcome, perhaps after a restart, give it the same ID.
// One ID is for one change. Without one, or with zeros, each change gets a new
// one.
func WithRequestID(ctx context.Context, id [16]byte) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// Do asks for the route of this name. request is a value of the type that the
// route takes as its query or body, or nil; response points to the type of its
// answer, or to a []byte where that is no JSON, or is nil. A response that is a
// func(io.Reader) error reads an answer of any length, in any time, and is called
// once at most for each address: its error ends the try.
//
// Addresses are tried in turn until one answers with something other than
// sealed, no quorum or unavailable. A node that has not answered is asked for a
// sign of life after a second, and every five seconds from then on. Where none comes
// within a second, what changes nothing is asked of the next address too, unless
// response is a func(io.Reader) error, and the first answer counts that is no
// trouble of one node; where none comes within five, the node is given up.
//
// The error is then an *[api.Error], an *[UnreachableError], or ctx's; of a change
// that may have been made all the same, it is within an *[OutcomeUnknownError].
func (c *Client) Do(ctx context.Context, name string, request, response any) (Answer, error) {
	route, ok := c.routes[name]
	if !ok || route.Secrets != nil {
		return Answer{}, fmt.Errorf("client: %s: no such route", name)
	}
	call, err := newCall(ctx, route, request)
	if err != nil {
		return Answer{}, err
	}
	answer, err := c.ask(ctx, call, response)
	if err != nil && call.id != "" && call.doubtful.Load() {
		err = &OutcomeUnknownError{Request: call.id, Err: err}
	}
	return answer, err
}

// ask asks one address after the other.
func (c *Client) ask(ctx context.Context, call *call, response any) (Answer, error) {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	var refused error
	var troubled outcome // the first, while another node may do better
	r := c.newRound(call, response)
	tries := make([]error, len(r.addresses))
	for o, ok := r.next(asking); ok; o, ok = r.next(asking) {
		address, err := r.addresses[o.of], o.err
		if err == nil && r.read == nil {
			err = call.parse(o.body, response)
		}
		if err == nil {
			c.answered(address)
			return o.answer, nil
		}
		if ctx.Err() != nil {
			return Answer{}, fmt.Errorf("client: %s: %w", call.route.Name, ctx.Err())
		}
		var said *api.Error
		if !errors.As(err, &said) {
			var stranger *PinError // has the address
			if !errors.As(err, &stranger) {
				err = fmt.Errorf("%s: %w", address, err)
			}
			tries[o.of] = err
			continue
		}
		switch {
		case another(said.Code):
			if refused == nil {
				refused = said
			}
		case trouble(said.Code) && len(r.waiting) > 0:
			if troubled.err == nil {
				troubled.answer, troubled.err = o.answer, said
			}
		default:
			c.answered(address)
			return o.answer, said
		}
	}
	if troubled.err != nil {
		return troubled.answer, troubled.err
	}
	if refused != nil { // a node that says why is worth more than silence
		return Answer{}, refused
	}
	return Answer{}, &UnreachableError{Tries: tries}
}

// another reports whether another node may do better.
func another(code api.Code) bool {
	return code.Exit() == api.ExitRetry || code == api.CodeUnavailable
}

// trouble reports whether a code says more of the node and its device than of the
// request.
func trouble(code api.Code) bool {
	switch code {
	case api.CodeDevice, api.CodeInternal, api.CodeNoDKEK, api.CodeTimeout,
		api.CodeWrongPIN, api.CodePINBlocked, api.CodeUnsupported:
		return true
	}
	return false
}

// call is a request that can be sent more than once.
type call struct {
	route api.Route
	query string
	body  []byte
	id    string // request ID, hex; empty where nothing changes
	// doubtful is set where some try may have reached a node, and was not
	// answered with what became of it.
	doubtful atomic.Bool
}

func newCall(ctx context.Context, route api.Route, request any) (*call, error) {
	c := &call{route: route}
	want := route.Request
	if want == nil {
		want = route.Query
	}
	if reflect.TypeOf(request) != reflect.TypeOf(want) && (request != nil || route.Request != nil) {
		return nil, fmt.Errorf("client: %s: takes a %T, not a %T", route.Name, want, request)
	}
	switch {
	case route.Request != nil:
		body, err := json.Marshal(request)
		if err != nil {
			return nil, fmt.Errorf("client: %s: %w", route.Name, err)
		}
		if len(body) > api.MaxBody {
			return nil, &api.Error{Code: api.CodeTooLarge, Message: fmt.Sprintf("request is longer than %d bytes", api.MaxBody)}
		}
		c.body = body
	case request != nil:
		c.query = api.EncodeQuery(request).Encode()
	}
	if route.Changes {
		id, given := ctx.Value(requestIDKey{}).([16]byte)
		if !given || id == ([16]byte{}) {
			rand.Read(id[:])
		}
		c.id = hex.EncodeToString(id[:])
	}
	return c, nil
}

// try asks one address. It returns the body of an answer, which read takes where
// there is one. quiet is called where the node may have stopped.
func (c *Client) try(ctx context.Context, address string, call *call, read func(io.Reader) error, quiet func()) (Answer, []byte, error) {
	if read == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, call.route.Method, c.url(address, call), bytes.NewReader(call.body))
	if err != nil {
		return Answer{}, nil, err
	}
	if call.route.Request != nil {
		req.Header.Set("Content-Type", api.TypeJSON)
	}
	return c.send(req, call, read, quiet)
}

func (c *Client) url(address string, call *call) string {
	at := "https://" + address + call.route.Path
	if c.socket != "" {
		at = "http://localhost" + call.route.Path
	}
	if call.query != "" {
		at += "?" + call.query
	}
	return at
}

func (c *Client) send(req *http.Request, call *call, read func(io.Reader) error, quiet func()) (Answer, []byte, error) {
	if call.id != "" {
		req.Header.Set(api.HeaderRequest, call.id)
	}
	connected := false
	answer, body, err := c.exchange(req, call, read, watcher{connected: func() { connected = true }, quiet: quiet})
	var said *api.Error
	if err != nil && connected && (!errors.As(err, &said) || said.Code == api.CodeTimeout) {
		call.doubtful.Store(true)
	}
	return answer, body, err
}

func (c *Client) exchange(req *http.Request, call *call, read func(io.Reader) error, w watcher) (Answer, []byte, error) {
	answer, done, err := c.whileAlive(req, w)
	if err != nil {
		var at *url.Error // says the address and the route again
		if errors.As(err, &at) {
			err = at.Err
		}
		return Answer{}, nil, err
	}
	defer done()
	defer answer.Body.Close()
	a := Answer{Node: answer.Header.Get(api.HeaderNode), StateAge: -1}
	if seconds, err := strconv.ParseFloat(answer.Header.Get(api.HeaderStateAge), 64); err == nil && seconds >= 0 && seconds < 1e9 {
		a.StateAge = time.Duration(seconds * float64(time.Second))
	}
	if read != nil && answer.StatusCode/100 == 2 {
		return a, nil, read(answer.Body)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil {
		return Answer{}, nil, err
	}
	if len(body) > maxAnswer {
		return Answer{}, nil, fmt.Errorf("client: answer is longer than %d bytes", maxAnswer)
	}
	if answer.StatusCode/100 != 2 && !(call.route.Name == api.HealthReady && answer.StatusCode == http.StatusServiceUnavailable) {
		return a, nil, parseError(answer.StatusCode, body)
	}
	return a, body, nil
}

// parse reads an answer into response. One that cannot be read says nothing of what
// became of the call.
func (c *call) parse(body []byte, response any) error {
	err := parseAnswer(body, response)
	if err != nil {
		c.doubtful.Store(true)
	}
	return err
}

func parseAnswer(body []byte, response any) error {
	switch r := response.(type) {
	case nil:
		return nil
	case *[]byte:
		*r = body
		return nil
	}
	if err := json.Unmarshal(body, response); err != nil {
		return fmt.Errorf("client: answer is not what the route says: %w", err)
	}
	return nil
}

// parseError reads the body of a refusal. One without such a body, from
// something between here and the node, becomes an error all the same.
func parseError(status int, body []byte) error {
	said := &api.Error{}
	if json.Unmarshal(body, said) != nil || said.Code == "" {
		return &api.Error{Code: api.CodeInternal, Message: fmt.Sprintf("answer %d %s without a reason", status, http.StatusText(status))}
	}
	return said
}
