package transport

// Directory tells who is who. The node answers from its replicated state.
// Methods are called from many goroutines, also during handshakes: they answer
// from memory and do not wait.
type Directory interface {
	// IsMember reports whether f may speak Raft, peer RPC and gossip.
	// Non-voters are members.
	IsMember(f Fingerprint) bool
	// IsClient reports whether f is a registered client or operator. It buys
	// a reserved share of the API's connections and no right.
	IsClient(f Fingerprint) bool
	// WasMember reports whether f was a member's that was removed: it is told so,
	// and let in no more than a stranger.
	WasMember(f Fingerprint) bool
	// MemberAt returns the fingerprint of the member whose address is addr,
	// exactly as Raft or a Call names it.
	MemberAt(addr string) (Fingerprint, bool)
}

// Peer is a member to talk to: who it must be and where to look for it. An
// address is a hint that may be wrong or old; the fingerprint is the truth.
type Peer struct {
	Fingerprint Fingerprint
	Addr        string // host:port
}
