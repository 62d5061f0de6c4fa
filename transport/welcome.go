package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"time"
)

// welcomeByte is the first byte on a member's connection, sent by the side that
// was dialled once it has admitted the caller. In TLS 1.3 the caller's handshake
// is over before the other side has looked at its key: without this byte, it would
// take a refusal for a broken connection, after it had sent something.
const welcomeByte = 1

// farewellByte is sent in its place to a member that was removed: else it would
// try for ever.
const farewellByte = 2

// ErrNotAdmitted: the peer runs, under the key that was asked for, and closed the
// connection without a welcome.
var ErrNotAdmitted = errors.New("the peer did not let this node in")

// ErrRemoved: the peer says that this node was removed. It is one peer's word.
var ErrRemoved = fmt.Errorf("%w: it says that this node was removed", ErrNotAdmitted)

func greet(conn *tls.Conn, first byte) error {
	conn.SetWriteDeadline(time.Now().Add(handshakeTimeout))
	_, err := conn.Write([]byte{first})
	if err != nil {
		return fmt.Errorf("transport: welcome: %w", err)
	}
	return conn.SetWriteDeadline(time.Time{})
}

// awaitWelcome returns when the peer has admitted this node. After an error conn
// is of no use.
func awaitWelcome(ctx context.Context, conn *tls.Conn) error {
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	var first [1]byte
	_, err := io.ReadFull(conn, first[:])
	if !stop() {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotAdmitted, err)
	}
	if first[0] == farewellByte {
		return ErrRemoved
	}
	if first[0] != welcomeByte {
		return fmt.Errorf("the peer began with byte %d", first[0])
	}
	return nil
}
