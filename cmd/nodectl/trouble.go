package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/drivers"
	"github.com/keycustodian/keycustodian/node"
)

// machineWays are the ways out of what the operating system refuses. What the
// node and its device keep is whole then, and nothing is to be deleted or
// replaced for it.
var machineWays = []struct {
	is  error
	way string
}{
	{syscall.EADDRINUSE, "another program has this port: stop it, or set another with listen"},
	{syscall.EADDRNOTAVAIL, "listen on an address of this machine, or give it that address"},
	{syscall.ENOSPC, "make room on the disk of what it names, and start again"},
	{syscall.EDQUOT, "give its user more room on the disk of what it names, and start again"},
	{syscall.EROFS, "mount the disk of what it names for writing, after a check if the system made it read-only, and start again: nothing is lost"},
	{syscall.EIO, "the disk fails: copy what it holds to another while it can be read, and start there; never start two copies"},
	{syscall.EMFILE, "let the process open more files (LimitNOFILE, ulimit -n), and start again"},
	{syscall.ENFILE, "let the machine open more files (fs.file-max), and start again"},
	{syscall.ENOMEM, "give the machine or the process more memory, and start again"},
	{fs.ErrPermission, "run as the owner of what it names, or give that back to its owner"},
	{syscall.ENOTDIR, "something else is in the place of a folder: put the folder back, or name another"},
	{syscall.EISDIR, "a folder is in the place of a file: put the file back, or name another"},
}

// machineWay is the way out where the operating system is the trouble, else "".
func machineWay(err error) string {
	for _, m := range machineWays {
		if errors.Is(err, m.is) {
			return m.way
		}
	}
	return ""
}

// deviceTrouble says what to do about a device that does not open.
func deviceTrouble(cfg *config, err error) error {
	err = fmt.Errorf("device %s: %w", drivers.Redact(cfg.Device), err)
	switch way := machineWay(err); {
	case errors.Is(err, hsm.ErrInUse):
		return hint("one process has a device at a time: stop the other one", err)
	case way != "":
		return hint(way, err)
	case errors.Is(err, fs.ErrNotExist):
		return hint("make the folder that the device's URI names, or mount it, or mend the URI", err)
	case errors.Is(err, hsm.ErrStorage):
		return hint("the device's file is damaged or was sealed under another secret: put the right one back, or delete the file and run nodectl device replace: its keys come back from the cluster", err)
	}
	return hint("mend the device's URI, or plug it in", err)
}

// startTrouble says what to do about a node that does not open.
func startTrouble(cfg *config, err error) error {
	var known *hinted
	var damaged *node.DamagedLogError
	var socket *node.SocketError
	if folder := "data folder " + cfg.Dir; !strings.Contains(err.Error(), folder) {
		err = fmt.Errorf("%s: %w", folder, err)
	}
	err = fmt.Errorf("node %s: %w", cfg.Name, err)
	switch way := machineWay(err); {
	case errors.As(err, &known):
		return hint(known.hint, err)
	case errors.Is(err, node.ErrInUse):
		return hint("one process has a data folder at a time: stop the other one", err)
	case way != "":
		return hint(way, err)
	case errors.Is(err, fs.ErrNotExist) && !errors.As(err, &damaged):
		return hint("make or mount the folder that it names, or name another", err)
	case errors.As(err, &socket):
		return hint("mend the setting socket: a path of its own, at which nothing lies and nobody listens", err)
	}
	return hint("mend or put back what it names, and start again. Only where that cannot be: nodectl cluster remove "+cfg.Name+
		" on another node, then start with an empty data folder and another listen address (a removed node's is not used again), and join", err)
}
