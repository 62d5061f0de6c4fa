package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/spf13/cobra"
)

func (a *app) deviceCommand() *cobra.Command {
	return noun("device", "the nodes' HSMs", a.deviceList(), a.deviceInfo(), a.deviceReplace(), a.deviceWipe(),
		a.deviceReseal(), a.devicePIN(), a.deviceEnter(), a.deviceAside())
}

func (a *app) deviceList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list the devices as their nodes last reported", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			var list api.Devices
			if err := a.ask(ctx, api.DeviceList, nil, &list); err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) { showDevices(w, list.Devices) })
		},
	}
}

func showDevices(w io.Writer, devices []api.Device) {
	row(w, "NODE", "KIND", "SERIAL", "STATE", "KCV", "KEYS", "SLOTS", "DKEK PUT TOGETHER BY", "WEAKNESS")
	for _, d := range devices {
		by := "device"
		if !d.Combines {
			by = "host"
		}
		row(w, d.Name, d.Kind, d.Serial, d.State, d.KCV, d.Keys, d.Slots, by, d.Weakness)
	}
}

func (a *app) deviceInfo() *cobra.Command {
	var query api.DeviceQuery
	c := &cobra.Command{
		Use: "info", Short: "ask a node about its device now", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			var d api.DeviceDetails
			if err := a.ask(ctx, api.DeviceInfo, query, &d); err != nil {
				return err
			}
			return a.show(d, func(w io.Writer) { showDetails(w, d) })
		},
	}
	c.Flags().StringVar(&query.Node, "node", "", "`NODE`; else the one that answers")
	return c
}

func showDetails(w io.Writer, d api.DeviceDetails) {
	row(w, "node", d.Name)
	row(w, "device", d.Kind+" "+d.Serial)
	row(w, "model", d.Model+" "+d.Firmware)
	row(w, "state", d.State)
	row(w, "logged in", yesNo(d.LoggedIn))
	row(w, "KCV", d.KCV)
	row(w, "keys", fmt.Sprintf("%d of %d slots, %d free", d.Keys, d.Slots, d.FreeSlots))
	row(w, "tries left", fmt.Sprintf("PIN %d, SO-PIN %d", d.UserTries, d.SOTries))
	row(w, "types", strings.Join(d.Types, " "))
	if d.Weakness != "" {
		row(w, "weakness", d.Weakness)
	}
	for _, o := range d.Aside {
		row(w, "kept aside", fmt.Sprintf("slot %d %s %q: %s", o.Slot, o.Type, o.Label, o.Why))
	}
}

func (a *app) deviceReplace() *cobra.Command {
	var node, replaces string
	var f ceremonyFlags
	c := &cobra.Command{
		Use: "replace --node NODE --reason TEXT", Short: "fill a blank device in the place of one that died",
		Long: `Opens the ceremony that puts the DKEK into the blank device of a node: once
enough operators approve, a threshold of holders release their shares for it,
the device puts the DKEK together, and every key comes back and is proven under
its old public key. It signs your own approval where one is required, and says
so.

With --replaces, for a node that took the place of one that is gone, the same
approval covers the reshare that drops the old one.`,
		Example: `  nodectl device replace --node node-2 --reason "token broke" --wait
  nodectl device replace --node node-4 --replaces node-2 --reason "host burnt" --wait`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if f.reason == "" {
				return usage("device replace wants --reason TEXT: other operators read it")
			}
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.Close()
			m, err := s.member(ctx, node)
			if err != nil {
				return err
			}
			request := api.ReplaceRequest{Node: m.ID, CeremonyTerms: f.terms()}
			var replaced *api.Endpoint
			if replaces != "" {
				r, err := s.member(ctx, replaces)
				if err != nil {
					return err
				}
				request.Replaces, replaced = r.ID, &r
			}
			return a.open(c, api.DeviceReplace, request, f, wantTarget(m, replaced))
		},
	}
	c.Flags().StringVar(&node, "node", "", "`NODE` with the blank device")
	c.Flags().StringVar(&replaces, "replaces", "", "`NODE` that is gone, and whose share is to be dropped")
	f.add(c)
	c.MarkFlagRequired("node")
	return c
}

// wantTarget checks that shares go to the node that was named and to no other,
// and that nothing follows but the reshare that was asked for.
func wantTarget(target api.Endpoint, replaced *api.Endpoint) checker {
	return func(s *session, o *fsm.Open) error {
		if err := wantRecipient(fsm.CeremonyProvision, target)(s, o); err != nil {
			return err
		}
		switch {
		case replaced == nil && o.Successor == nil:
			return nil
		case replaced == nil:
			return errors.New("the node adds a reshare, which was not asked for")
		case o.Successor == nil || o.Successor.Replaced.String() != replaced.ID:
			return fmt.Errorf("the node does not add the reshare that drops %s", replaced.Name)
		}
		rest := slices.DeleteFunc(slices.Clone(s.members()), func(m api.Endpoint) bool { return m.ID == replaced.ID })
		return wantHolders(o.Successor.Holders, o.Successor.Threshold, rest, 0)
	}
}

// wantRecipient checks the kind, and that one node is sent shares: this one.
func wantRecipient(kind fsm.CeremonyKind, target api.Endpoint) checker {
	return func(_ *session, o *fsm.Open) error {
		if err := wantKind(o, kind); err != nil {
			return err
		}
		recipients, err := recipientsOf(o)
		if err != nil {
			return err
		}
		if len(recipients) != 1 || recipients[0].Node.Node.String() != target.ID || recipients[0].Node.Fingerprint.String() != target.Fingerprint {
			return fmt.Errorf("the node would send the shares elsewhere than to %s", target.Name)
		}
		return nil
	}
}

func (a *app) deviceWipe() *cobra.Command {
	var node string
	var scratch bool
	c := &cobra.Command{
		Use: "wipe --node NODE --yes", Short: "erase a node's device", Args: cobra.NoArgs,
		Long: `Erases the device. Its keys live on in the other devices and in their wrapped
blobs; to have them back in this one takes a provision that operators approve.
Refused where the device holds a key that is not proven elsewhere.`,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.end(ctx)
			var d api.DeviceDetails
			if err := s.do(ctx, api.DeviceInfo, api.DeviceQuery{Node: node}, &d); err != nil {
				return err
			}
			if err := a.confirm(fmt.Sprintf("device %s %s of node %s is erased, with its DKEK and %d key versions", d.Kind, d.Serial, d.Name, d.Keys)); err != nil {
				return err
			}
			if err := s.do(ctx, api.DeviceWipe, api.WipeRequest{Node: d.Node, Serial: d.Serial, Scratch: scratch}, &api.Ack{}); err != nil {
				return err
			}
			a.say("erased; nodectl device replace --node %s fills it again", d.Name)
			return nil
		},
	}
	c.Flags().StringVar(&node, "node", "", "`NODE`")
	c.Flags().BoolVar(&scratch, "scratch", false, "keep it blank, for drills")
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	c.MarkFlagRequired("node")
	return c
}

func (a *app) deviceAside() *cobra.Command {
	var request api.AsideRequest
	decide := func(action, short string) *cobra.Command {
		c := &cobra.Command{
			Use: action + " SLOT --node NODE", Short: short, Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				ctx, cancel := a.context(c)
				defer cancel()
				slot, err := strconv.ParseUint(args[0], 10, 32)
				if err != nil {
					return usage("slot %.40q is not a number", args[0])
				}
				request.Slot, request.Action = uint32(slot), action
				if action == "adopt" {
					if err := checkKeyName(request.Name); err != nil {
						return err
					}
				} else if err := a.confirm(fmt.Sprintf("the object in slot %d of node %s is deleted", slot, request.Node)); err != nil {
					return err
				}
				return a.ask(ctx, api.DeviceAside, request, &api.Ack{})
			},
		}
		c.Flags().StringVar(&request.Node, "node", "", "`NODE`")
		c.MarkFlagRequired("node")
		if action == "adopt" {
			c.Flags().StringVar(&request.Name, "name", "", "`NAME` of the key that it becomes")
		} else {
			c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
		}
		return c
	}
	return noun("aside", "objects in a device that belong to no key (see device info)",
		decide("adopt", "make an object a key"), decide("delete", "delete an object"))
}
