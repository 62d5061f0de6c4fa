package main

import (
	"context"
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
		Long: `Lists the devices by their nodes' names. KEYS is how many of all key versions
a device holds, FAILED how many could not be loaded or proven yet; they are
tried again. DKEK says who has it whole: a software device's host always has it,
other hosts where they put it together; docs/threats.md says when.`,
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
	row(w, "NODE", "KIND", "SERIAL", "STATE", "KCV", "KEYS", "FAILED", "SLOTS", "DKEK", "WEAKNESS")
	for _, d := range devices {
		failed := ""
		if d.Restored != nil {
			failed = strconv.Itoa(d.Restored.Failed)
		}
		row(w, d.Name, d.Kind, d.Serial, d.State, d.KCV, keysOf(d), failed, d.Slots, whereDKEK(d), d.Weakness)
	}
}

// keysOf is how many of the key versions that it should hold a device holds.
func keysOf(d api.Device) string {
	if d.Restored == nil {
		return strconv.Itoa(d.Keys)
	}
	return fmt.Sprintf("%d of %d", d.Keys, d.Restored.Total)
}

// whereDKEK says who has seen the DKEK whole.
func whereDKEK(d api.Device) string {
	switch {
	case d.KCV == "":
		return "none"
	case d.Kind == "soft":
		return "in software"
	case d.Combines:
		return "put together by the device"
	}
	return "put together by the host"
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
	row(w, "DKEK", whereDKEK(d.Device))
	row(w, "keys", fmt.Sprintf("%s, in %d slots, %d free", keysOf(d.Device), d.Slots, d.FreeSlots))
	if d.Restored != nil {
		row(w, "restored", fmt.Sprintf("%d proven since the start, %d failed so far", d.Restored.Done, d.Restored.Failed))
	}
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
so. Refused where the device has the DKEK, or is only locked: no share moves for
nothing. Enter its PIN, or unblock it with the SO-PIN; where both are lost, stop the
node, delete a software device's file or reset the token with its own tool, start
the node, and replace.

With --replaces, for a node that took the place of one that is gone, the same
approval covers the reshare that drops the old one, and --wait waits for both.`,
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
	c := &cobra.Command{
		Use: "wipe --node NODE --yes", Short: "erase a node's device", Args: cobra.NoArgs,
		Long: `Erases the device, its DKEK with it. Every key that the cluster has acknowledged
lives on as a wrapped blob in all logs, and in the other devices that hold it; to
have it back in this one takes device replace, with its approvals and as many shares
as the threshold. Until then a key that no other device holds, and in a cluster of
one node every key, cannot be used.

Refused where a key would not come back: an object that belongs to no acknowledged
key (see device aside), and where no other device in reach has the DKEK, or one of
the keys, and too few holders answer to fill this one again. Your key signs it, for
the node to check; its own socket wants no signature.`,
		Example: "  nodectl device wipe --node node-2",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.end(ctx)
			d, err := s.device(ctx, node)
			if err != nil {
				return err
			}
			if err := a.confirm(fmt.Sprintf("device %s %s of node %s is erased, with its DKEK and %d key versions: those that no other device holds cannot be used until device replace has filled it again", d.Kind, d.Serial, d.Name, d.Keys)); err != nil {
				return err
			}
			word, err := s.word(ctx, d, fsm.DeviceStatement{Act: fsm.ActWipe})
			if err != nil {
				return err
			}
			var ack api.Ack
			if err := s.do(ctx, api.DeviceWipe, api.WipeRequest{Node: d.Node, Serial: d.Serial, OperatorWord: word}, &ack); err != nil {
				return err
			}
			return a.done(ack, "erased; nodectl device replace --node %s fills it again", d.Name)
		},
	}
	c.Flags().StringVar(&node, "node", "", "`NODE`")
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	c.MarkFlagRequired("node")
	return c
}

func (a *app) deviceAside() *cobra.Command {
	var node, name string
	decide := func(act fsm.DeviceAct, short, example string) *cobra.Command {
		c := &cobra.Command{
			Use: string(act) + " SLOT --node NODE", Short: short, Args: cobra.ExactArgs(1),
			Example: "  nodectl device aside " + string(act) + " 7 --node node-2" + example,
			RunE: func(c *cobra.Command, args []string) error {
				ctx, cancel := a.context(c)
				defer cancel()
				slot, err := strconv.ParseUint(args[0], 10, 32)
				if err != nil {
					return usage("slot %.40q is not a number", args[0])
				}
				if act == fsm.ActAdopt {
					if err := checkKeyName(name); err != nil {
						return err
					}
				} else if err := a.confirm(fmt.Sprintf("the object in slot %d of node %s is deleted", slot, node)); err != nil {
					return err
				}
				ack, err := a.decideAside(ctx, node, fsm.DeviceStatement{Act: act, Slot: uint32(slot), Name: name})
				if err != nil {
					return err
				}
				if act == fsm.ActAdopt {
					return a.done(ack, "the object in slot %d of node %s is key %s now", slot, node, name)
				}
				return a.done(ack, "deleted the object in slot %d of node %s", slot, node)
			},
		}
		c.Flags().StringVar(&node, "node", "", "`NODE`")
		c.MarkFlagRequired("node")
		if act == fsm.ActAdopt {
			c.Flags().StringVar(&name, "name", "", "`NAME` of the key that it becomes")
		} else {
			c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
		}
		return c
	}
	c := a.deviceAsideList()
	c.AddCommand(decide(fsm.ActAdopt, "make an object a key", " --name found"), decide(fsm.ActDelete, "delete an object", ""))
	return c
}

func (a *app) deviceAsideList() *cobra.Command {
	var query api.DeviceQuery
	c := &cobra.Command{
		Use: "aside", Short: "list objects in a device that belong to no key (or adopt, delete one)", Args: cobra.NoArgs,
		Example: "  nodectl device aside --node node-2",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			var d api.DeviceDetails
			if err := a.ask(ctx, api.DeviceInfo, query, &d); err != nil {
				return err
			}
			aside := append([]api.AsideObject{}, d.Aside...) // a list also where there is none
			return a.show(aside, func(w io.Writer) {
				row(w, "SLOT", "TYPE", "LABEL", "INCARNATION", "WHY")
				for _, o := range aside {
					row(w, o.Slot, o.Type, o.Label, o.Incarnation, o.Why)
				}
			})
		},
	}
	c.Flags().StringVar(&query.Node, "node", "", "`NODE`; else the one that answers")
	return c
}

// decideAside signs what becomes of an object that is kept aside, and asks for it.
func (a *app) decideAside(ctx context.Context, node string, statement fsm.DeviceStatement) (ack api.Ack, err error) {
	s, err := a.connect(ctx)
	if err != nil {
		return ack, err
	}
	defer s.end(ctx)
	d, err := s.device(ctx, node)
	if err != nil {
		return ack, err
	}
	word, err := s.word(ctx, d, statement)
	if err != nil {
		return ack, err
	}
	err = s.do(ctx, api.DeviceAside, api.AsideRequest{Node: d.Node, OperatorWord: word}, &ack)
	return ack, err
}
