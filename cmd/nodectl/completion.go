package main

import (
	"io"
	"strings"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/spf13/cobra"
)

// completer offers what may stand where the cursor is.
type completer func(a *app, prefix string) ([]string, cobra.ShellCompDirective)

// complete gives every command below c completion of its arguments and flags, by
// the words of its usage and the names of its flags. Names of nodes and
// operators come from the cluster file; other names from the cluster, where it
// answers at once and the caller's key opens without a question.
func (a *app) complete(c *cobra.Command) {
	for _, verb := range c.Commands() {
		a.complete(verb)
	}
	for name, offer := range flagCompleters() {
		if c.Flag(name) != nil {
			c.RegisterFlagCompletionFunc(name, a.completion(offer))
		}
	}
	if c.HasSubCommands() || c.ValidArgsFunction != nil {
		return
	}
	first, many := firstArgument(c.Use)
	offer, known := argumentCompleters()[c.Parent().Name()+" "+c.Name()]
	if !known {
		offer, known = argumentCompleters()[c.Parent().Name()+" "+first]
	}
	if !known || c.Name() == "create" { // a new name is nobody's yet
		offer = fixed()
	}
	c.ValidArgsFunction = func(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && !many {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.completion(offer)(c, args, prefix)
	}
}

// firstArgument is the first word of a usage that is not a flag, and whether it
// may be repeated.
func firstArgument(use string) (word string, many bool) {
	words := strings.Fields(use)
	if len(words) < 2 || strings.HasPrefix(words[1], "-") || strings.HasPrefix(words[1], "(") {
		return "", false
	}
	word, many = strings.CutSuffix(words[1], "...")
	return strings.TrimSuffix(word, "@VERSION"), many
}

// argumentCompleters are by the noun and the verb, or the noun and the word in the
// verb's usage.
func argumentCompleters() map[string]completer {
	return map[string]completer{
		"key NAME":                  keysOrVersions,
		"key rotate":                keyNames,
		"key labels":                keyNames,
		"key destroy-except":        awaitedVersions,
		"cluster NODE":              nodeNames,
		"client NAME|FINGERPRINT":   clientNames,
		"operator NAME|FINGERPRINT": operatorNames,
		"operator FILE.pub":         publicFiles,
		"ceremony ID":               ceremonyIDs,
		"token FINGERPRINT":         tokenFingerprints,
	}
}

func flagCompleters() map[string]completer {
	sources := func(*app, string) ([]string, cobra.ShellCompDirective) {
		return []string{"file:", "credential:", "fd:", "prompt"}, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
	verbs := fixed(append([]string{"all"}, strings.Split(joinVerbs(api.Verbs()), ",")...)...)
	return map[string]completer{
		"node": nodeNames, "holder": nodeNames, "via": nodeNames, "replaces": nodeNames,
		"type": fixed(typeNames()...), "hash": fixed(api.SHA256, api.SHA384, api.SHA512, api.SHA1, api.MD5),
		"client": clientFingerprints, "label": labels,
		"role": fixed(string(api.User), string(api.Auditor)), "verbs": verbs, "usage": verbs,
		"source": sources, "new-source": sources, "present": sources, "new": sources, "seal-source": sources,
		"passphrase": fixed("prompt"), "operator": publicFiles, "public": publicFiles, "peer": publicFiles,
		"output": fixed("text", "json"), "log-level": fixed("debug", "info", "warn", "error"), "log-format": fixed("text", "json"),
	}
}

// completion runs a completer as cobra wants it: quietly, and for a moment.
func (a *app) completion(offer completer) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		quiet := *a
		quiet.err, quiet.unasked = io.Discard, true
		all, directive := offer(&quiet, prefix)
		var fitting []string
		for _, text := range all {
			if strings.HasPrefix(text, prefix) {
				name, about, _ := strings.Cut(text, "\t")
				fitting = append(fitting, strings.TrimSpace(oneLine(name)+"\t"+oneLine(about)))
			}
		}
		return fitting, directive
	}
}

func fixed(words ...string) completer {
	return func(*app, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}
