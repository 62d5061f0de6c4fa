// Package transport carries bytes between authenticated peers: one port, TLS
// 1.3 with self-signed certificates on both sides, and ALPN to choose what is
// spoken. It knows fingerprints, addresses and who is a member; it does not
// know what the bytes mean.
//
// Start with [NewIdentity] and [Listen]; then hand [Server.Raft] to
// hashicorp/raft, register peer methods with [Peers.Handle], serve
// [Server.API] with net/http, and start [Server.Gossip].
//
//	identity, err := transport.NewIdentity(key)
//	server, err := transport.Listen(transport.Config{
//		Identity: identity, Listen: "10.0.0.1:7400", Directory: members,
//	})
//	layer := raft.NewNetworkTransport(server.Raft(), 3, 10*time.Second, nil)
//	go http.Serve(server.API(), handler)
//
// Guaranteed: whoever speaks Raft, peer RPC or gossip held the private key of
// a fingerprint that the [Directory] called a member, at the handshake and, for
// peer RPC, at every request; after [Server.Cut] no connection of that
// fingerprint is open; a dial ends at the fingerprint that was asked for or
// fails; a flood of handshakes does not keep members out.
//
// Not guaranteed: anything about names, validity dates or extensions in peers'
// certificates, which are ignored; and nothing that gossip says is more than a
// hint. Callers of the API listener are strangers until the API has looked
// their fingerprint up.
//
// [NewMemory] is a network without sockets for tests, the embedder's included.
package transport
