package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// Maximums of the API server.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 30 * time.Second
	idleTimeout       = 2 * time.Minute
	// requestTimeout bounds one request, the making of a long key included.
	requestTimeout = 2 * time.Minute
	maxHeader      = 16 << 10
	// writeTimeout leaves a moment to send the answer after that.
	writeTimeout = requestTimeout + readTimeout
	// lastAnswers is how long requests under way may take when the node ends.
	lastAnswers = 3 * time.Second
	// readPatience is how long a reading request waits for a consistent read
	// before it is answered from what this node has, with its age.
	readPatience = time.Second
)

// face answers the HTTP API, on the node's port and on its unix socket. It
// decides who a caller is and translates; what is asked is done elsewhere.
type face struct {
	node    *Node
	routes  map[string]endpoint
	metrics *metrics
	words   words
	counts  keyCounter
	// stranger is taken while the newest state is asked for somebody unknown.
	stranger chan struct{}
	closing  chan struct{} // closed when the node ends: nobody waits any longer
	socket   *http.Server  // nil: none
	port     *http.Server  // nil: sealed
}

func newFace(n *Node) *face {
	f := &face{node: n, routes: map[string]endpoint{}, stranger: make(chan struct{}, 1), closing: make(chan struct{})}
	f.metrics = newMetrics(n)
	serve := endpoints()
	for _, route := range api.Routes() {
		if e, ok := serve[route.Name]; ok {
			e.route = route
			f.routes[route.Pattern()] = e
		}
	}
	return f
}

// serve answers on a listener whose connections have done their TLS handshake.
func (f *face) serve(listener net.Listener) {
	f.listenToMembers()
	f.port = f.server(f.whoOnPort)
	f.node.loops.Go(func() { f.run(f.port, listener) })
}

func (f *face) server(who func(*http.Request, *fsm.View) visitor) *http.Server {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.answer(w, r, who) }),
		ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, Protocols: protocols,
		ErrorLog:    slog.NewLogLogger(f.node.logger.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return f.node.ctx },
	}
}

func (f *face) run(server *http.Server, listener net.Listener) {
	if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) && f.node.ctx.Err() == nil {
		f.node.logger.Error("the API is not answered any more", "address", listener.Addr().String(), "reason", err)
	}
}

// close lets requests under way end, for a moment.
func (f *face) close() {
	close(f.closing)
	ctx, cancel := context.WithTimeout(context.Background(), lastAnswers)
	defer cancel()
	for _, server := range []*http.Server{f.socket, f.port} {
		if server == nil {
			continue
		}
		if err := server.Shutdown(ctx); err != nil {
			server.Close()
		}
	}
}

// answer is every request's way: find the route, find out who asks, let the
// endpoint answer, write that.
func (f *face) answer(w http.ResponseWriter, r *http.Request, who func(*http.Request, *fsm.View) visitor) {
	started := time.Now()
	ctx := newRequestContext(r.Context(), started.Add(requestTimeout))
	defer ctx.close()
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	e, err := f.find(r)
	if err != nil {
		f.fail(w, err)
		return
	}
	a := &asked{face: f, node: f.node, route: e.route, http: r, view: f.node.view()}
	a.visitor = who(r, a.view)
	var reply any
	if err = a.admit(ctx, who); err != nil {
		a.noteRefusal(ctx, err)
	} else if err = a.requestID(); err == nil {
		reply, err = e.serve(ctx, w, a)
	}
	code := ""
	if err != nil {
		code = string(f.fail(w, err))
	} else {
		f.write(w, a, reply)
	}
	f.metrics.answered(e.route.Name, code, time.Since(started))
}

func (f *face) find(r *http.Request) (endpoint, error) {
	if e, ok := f.routes[r.Method+" "+r.URL.Path]; ok {
		return e, nil
	}
	for _, route := range api.Routes() {
		if route.Path == r.URL.Path {
			return endpoint{}, &api.Error{Code: api.CodeBadRequest, Message: r.URL.Path + " does not answer " + r.Method, Hint: "ask for " + route.Pattern()}
		}
	}
	return endpoint{}, &api.Error{Code: api.CodeNotFound, Message: "there is no such route", Hint: "GET /openapi.json says which there are"}
}

// heads sets what every answer says about its node and its freshness.
func (f *face) heads(w http.ResponseWriter, age float64) {
	if f.node.Sealed() == nil && f.node.id != [16]byte{} {
		w.Header().Set(api.HeaderNode, f.node.id.String())
	}
	w.Header().Set(api.HeaderStateAge, strconv.FormatFloat(age, 'f', -1, 64))
}

// stateAge is as in the header: 0 for a linearizable answer, -1 for never.
func (f *face) stateAge(fresh bool) float64 {
	if fresh {
		return 0
	}
	age, ok := f.node.stateAge()
	if !ok {
		return -1
	}
	return float64(age.Milliseconds()) / 1000
}
