package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// GossipConfig says who gossips with whom. All fields but Logger are required.
type GossipConfig struct {
	// Name is this node's ID in hex; it never changes.
	Name string
	// Meta is what peers learn about this node, its address: at most MaxMeta
	// bytes.
	Meta []byte
	// Members names the members, this node included or not. Those that do
	// not answer are tried again every few seconds.
	Members func() []string
	// Peer returns the member of that name and where to dial it; false where
	// there is none, or no longer. It answers from memory and calls no method
	// of the Gossip.
	Peer func(name string) (Peer, bool)
	// Notify is told what gossip believes, one event after the other. It may
	// take its time: events wait for it, and the oldest are lost first.
	Notify func(GossipEvent)
	// Logger receives memberlist's own words at Debug; nil discards them.
	Logger *slog.Logger
}

func (c *GossipConfig) validate() error {
	switch {
	case c.Name == "" || len(c.Name) > 128:
		return fmt.Errorf("transport: gossip: a name of %d bytes", len(c.Name))
	case len(c.Meta) > MaxMeta:
		return fmt.Errorf("transport: gossip: meta of %d bytes, at most %d", len(c.Meta), MaxMeta)
	case c.Members == nil || c.Peer == nil || c.Notify == nil:
		return errors.New("transport: gossip: config lacks a function")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// GossipKind is what became of a peer, as far as gossip can tell.
type GossipKind int

const (
	PeerAlive GossipKind = iota + 1 // it answers, or answers again
	PeerDead                        // nobody reaches it, or it said goodbye
	PeerMeta                        // it says that its meta has changed
)

func (k GossipKind) String() string {
	switch k {
	case PeerAlive:
		return "alive"
	case PeerDead:
		return "dead"
	case PeerMeta:
		return "meta"
	}
	return fmt.Sprintf("GossipKind(%d)", int(k))
}

// GossipEvent is a hint. Any member can make gossip say anything about any
// other: act on it by looking, never by believing.
type GossipEvent struct {
	Kind GossipKind
	Name string
	Meta []byte // the receiver's to keep
}

// Gossip tells where peers are and whether they answer. It is memberlist over
// the members' streams: no port and no key of its own, and who is no member
// cannot take part.
type Gossip struct {
	config    GossipConfig
	list      *memberlist.Memberlist
	transport *gossipTransport
	events    chan GossipEvent
	cancel    context.CancelFunc
	running   sync.WaitGroup

	mu    sync.Mutex
	meta  []byte
	alive map[string]bool // by name; the dead are not in it
}

// Gossip starts gossip over the server's streams, one at a time. Close it
// before the server.
func (s *Server) Gossip(config GossipConfig) (*Gossip, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(s.ctx)
	g := &Gossip{
		config: config,
		events: make(chan GossipEvent, maxGossipEvents),
		cancel: cancel,
		meta:   bytes.Clone(config.Meta),
		alive:  map[string]bool{},
	}
	g.transport = newGossipTransport(ctx, s, config)
	settings := memberlist.DefaultLANConfig()
	settings.Name = config.Name
	settings.Transport = g.transport
	settings.RequireNodeNames = true
	settings.DeadNodeReclaimTime = gossipReclaim
	// The messages are small, and a decompressor is one parser more.
	settings.EnableCompression = false
	settings.Delegate = gossipDelegate{g}
	settings.Events = gossipDelegate{g}
	settings.Alive = gossipDelegate{g}
	settings.LogOutput = nil
	settings.Logger = log.New(logWriter{config.Logger}, "", 0)
	list, err := memberlist.Create(settings)
	if err != nil {
		cancel()
		g.transport.Shutdown()
		return nil, fmt.Errorf("transport: gossip: %w", err)
	}
	g.list = list
	g.running.Go(func() { g.deliver(ctx) })
	g.running.Go(func() { every(ctx, gossipContact, func() { g.contact(ctx) }) })
	return g, nil
}

// UpdateMeta changes what peers learn about this node.
func (g *Gossip) UpdateMeta(meta []byte) error {
	if len(meta) > MaxMeta {
		return fmt.Errorf("transport: gossip: meta of %d bytes, at most %d", len(meta), MaxMeta)
	}
	g.mu.Lock()
	g.meta = bytes.Clone(meta)
	g.mu.Unlock()
	// Its only error is that nobody has heard it within the timeout; the
	// broadcast goes out by itself, so do not wait.
	_ = g.list.UpdateNode(time.Nanosecond)
	return nil
}

// Leave says goodbye to the others, so that they need not suspect this node.
// It waits for one of them to have heard it, at most for timeout.
func (g *Gossip) Leave(timeout time.Duration) error {
	if err := g.list.Leave(timeout); err != nil {
		return fmt.Errorf("transport: gossip: leave: %w", err)
	}
	return nil
}

// Close ends gossip without a goodbye. The others notice by themselves.
func (g *Gossip) Close() error {
	g.cancel()
	err := g.list.Shutdown()
	g.running.Wait()
	return err
}

// emit queues an event without waiting; the oldest makes room.
func (g *Gossip) emit(kind GossipKind, name string, meta []byte) {
	event := GossipEvent{Kind: kind, Name: name, Meta: bytes.Clone(meta)}
	for {
		select {
		case g.events <- event:
			return
		default:
		}
		select {
		case <-g.events:
		default:
		}
	}
}

func (g *Gossip) deliver(ctx context.Context) {
	for {
		select {
		case event := <-g.events:
			g.config.Notify(event)
		case <-ctx.Done():
			return
		}
	}
}

// every runs f now and once per period.
func every(ctx context.Context, period time.Duration, f func()) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		f()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// contact exchanges state with the members that are not in touch.
func (g *Gossip) contact(ctx context.Context) {
	for _, name := range g.config.Members() {
		g.mu.Lock()
		alive := g.alive[name]
		g.mu.Unlock()
		if _, ok := g.config.Peer(name); !ok || alive || name == g.config.Name {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if _, err := g.list.Join([]string{name + "/" + standIn(name).address()}); err != nil {
			g.config.Logger.Debug("gossip: no contact", "peer", name, "error", err)
		}
	}
}

// logWriter hands memberlist's lines to slog.
type logWriter struct{ logger *slog.Logger }

func (w logWriter) Write(line []byte) (int, error) {
	w.logger.Debug(string(bytes.TrimSpace(line)))
	return len(line), nil
}
