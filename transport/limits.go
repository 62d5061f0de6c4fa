package transport

import "time"

// Every maximum of the package. The sizes are part of the wire format:
// docs/format.md, "Between nodes".
const (
	// MaxBody is the largest body of a peer request, a peer answer, a join
	// request and a join answer, in bytes.
	MaxBody = 1 << 20
	// MaxMeta is the largest gossip meta (an address), in bytes. memberlist
	// panics beyond 512.
	MaxMeta = 512
	// MaxMethod is the longest name of a peer method.
	MaxMethod = 64

	maxErrorCode    = 64
	maxErrorMessage = 1024
	// maxJoinFrame leaves room for the key, the signature and the CBOR heads
	// around a body of MaxBody.
	maxJoinFrame = MaxBody + 512
	// maxErrorFrame bounds the CBOR of one RemoteError.
	maxErrorFrame = maxErrorCode + maxErrorMessage + 64
	// maxGossipPacket is what a packet frame's two-byte length can say;
	// memberlist makes packets of at most 1400 bytes.
	maxGossipPacket = 1<<16 - 1

	// handshakeTimeout is how long a caller may take for its handshake.
	handshakeTimeout = 2 * time.Second
	// dialTimeout bounds dial and handshake together where the caller's
	// context allows more.
	dialTimeout = 5 * time.Second
	// joinTimeout bounds reading a join request, callTimeout a peer call
	// whose context has no deadline, handlerTimeout a peer or join handler.
	joinTimeout    = 10 * time.Second
	callTimeout    = 30 * time.Second
	handlerTimeout = 5 * time.Minute
	// A peer connection on which nothing came for pingAfter is asked, and
	// closed when no answer came for pingTimeout.
	pingAfter   = 2 * time.Second
	pingTimeout = 2 * time.Second
	// idleTimeout ends a peer connection without requests: calls that begin at
	// the same moment may open more than one.
	idleTimeout = 5 * time.Minute

	// Handshakes under way at once: strangers' and, apart from them, those
	// from hosts that a member was seen at. Beyond the limit the oldest makes
	// room: an honest handshake takes milliseconds, a hostile one all it can.
	maxStrangerHandshakes          = 256
	maxStrangerHandshakesPerSource = 32
	maxMemberHandshakes            = 128
	maxMemberHandshakesPerSource   = 64
	maxMemberHosts                 = 128

	// Join attempts that have not proven their token yet.
	maxUnprovenJoins          = 16
	maxUnprovenJoinsPerSource = 4
	// Join handlers running at once.
	maxJoins = 4

	// Open connections after the handshake. A stranger beyond the limit pushes
	// out the oldest stranger; a client or a member is refused its newest.
	maxStrangerConnections          = 256
	maxStrangerConnectionsPerSource = 64
	maxClientConnections            = 1024
	maxConnectionsPerPeer           = 256

	// maxPending is how many connections may wait for Accept.
	maxPending = 64
	// maxPeerRequests is how many requests one peer connection may have open.
	maxPeerRequests = 128

	// Gossip: packets waiting for one peer, events waiting for the caller, and
	// how long this and that may take.
	maxGossipQueue  = 64
	maxGossipEvents = 256
	gossipKindWait  = 5 * time.Second // for a connection's first byte
	gossipRedial    = time.Second
	gossipReclaim   = 30 * time.Second
	gossipContact   = 5 * time.Second // between tries of absent members
)
