package main

import (
	"fmt"
	"net"
	"strings"
)

// notify tells systemd about the daemon's state (sd_notify(3)): "READY=1",
// "STOPPING=1", "STATUS=...". Without NOTIFY_SOCKET it does nothing.
func notify(getenv func(string) string, state string) error {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if name, abstract := strings.CutPrefix(path, "@"); abstract {
		path = "\x00" + name
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}
