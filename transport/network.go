package transport

import (
	"context"
	"net"
	"time"
)

// Network is how connections are made: [TCP], or a host of a [Memory].
type Network interface {
	// Listen announces on addr, host:port; port 0 chooses one.
	Listen(addr string) (net.Listener, error)
	// Dial connects to addr, host:port, or fails when ctx ends.
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// TCP is the real network.
func TCP() Network { return tcp{} }

type tcp struct{}

// keepAlive makes the kernel give up a silent connection after about half a
// minute. Peer RPC and Raft notice sooner by themselves; an idle API or Raft
// stream would otherwise stay for hours.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
}

func (tcp) Listen(addr string) (net.Listener, error) {
	config := net.ListenConfig{KeepAliveConfig: keepAlive()}
	return config.Listen(context.Background(), "tcp", addr)
}

func (tcp) Dial(ctx context.Context, addr string) (net.Conn, error) {
	dialer := net.Dialer{KeepAliveConfig: keepAlive()}
	return dialer.DialContext(ctx, "tcp", addr)
}

// hostOf returns the host of an address as seen on a connection.
func hostOf(addr net.Addr) string {
	if addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	return host
}
