package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/client"
	"github.com/spf13/cobra"
)

const (
	// completionTime is how long a shell waits for names from the cluster.
	completionTime = 2 * time.Second
	completionMost = 100
)

func publicFiles(*app, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

func nodeNames(a *app, _ string) (names []string, _ cobra.ShellCompDirective) {
	if file, err := client.ReadClusterFile(a.clusterPath()); err == nil {
		for _, m := range file.Cluster.Members {
			names = append(names, m.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func operatorNames(a *app, _ string) (names []string, _ cobra.ShellCompDirective) {
	if file, err := client.ReadClusterFile(a.clusterPath()); err == nil && file.Operators != nil {
		for _, o := range file.Operators.Operators {
			names = append(names, o.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func keyNames(a *app, prefix string) ([]string, cobra.ShellCompDirective) {
	return fromCluster(a, api.KeyList, api.KeyListQuery{Prefix: prefix, Limit: completionMost}, func(list api.Keys) (names []string) {
		for _, k := range list.Keys {
			names = append(names, k.Name+"\t"+k.Type)
		}
		return names
	})
}

// keysOrVersions are names, and once one is typed with an @ its versions, the newest
// first. A shell that takes @ for the end of a word does not get that far: in bash,
// shopt -u hostcomplete.
func keysOrVersions(a *app, prefix string) ([]string, cobra.ShellCompDirective) {
	name, _, versioned := strings.Cut(prefix, "@")
	if !versioned {
		return keyNames(a, prefix)
	}
	return fromCluster(a, api.KeyShow, api.KeyQuery{Key: name}, func(key api.Key) (refs []string) {
		for _, v := range slices.Backward(key.Versions) {
			refs = append(refs, fmt.Sprintf("%s@%d\t%s", key.Name, v.Number, v.State))
		}
		return refs
	})
}

// awaitedVersions are those whose destruction some device has yet to confirm.
func awaitedVersions(a *app, prefix string) ([]string, cobra.ShellCompDirective) {
	name, _, _ := strings.Cut(prefix, "@")
	return fromKeys(a, name, func(k api.Key) (refs []string) {
		for _, v := range k.Versions {
			if v.State == api.VersionDestroying {
				refs = append(refs, fmt.Sprintf("%s@%d\t%s", k.Name, v.Number, strings.Join(v.Awaiting, ", ")))
			}
		}
		return refs
	})
}

// labels are those that keys have, the whole NAME=VALUE.
func labels(a *app, _ string) ([]string, cobra.ShellCompDirective) {
	return fromKeys(a, "", func(k api.Key) (texts []string) {
		for name, value := range k.Labels {
			texts = append(texts, name+"="+value)
		}
		return texts
	})
}

func clientFingerprints(a *app, _ string) ([]string, cobra.ShellCompDirective) {
	return fromCluster(a, api.ClientList, nil, func(list api.Clients) (prints []string) {
		for _, l := range list.Clients {
			prints = append(prints, l.Fingerprint+"\t"+l.Name)
		}
		return prints
	})
}

func clientNames(a *app, _ string) ([]string, cobra.ShellCompDirective) {
	return fromCluster(a, api.ClientList, nil, func(list api.Clients) (names []string) {
		for _, l := range list.Clients {
			names = append(names, l.Name+"\t"+string(l.Role))
		}
		return names
	})
}

func ceremonyIDs(a *app, _ string) ([]string, cobra.ShellCompDirective) {
	return fromCluster(a, api.CeremonyList, api.CeremonyListQuery{Limit: completionMost}, func(list api.Ceremonies) (ids []string) {
		for _, c := range list.Ceremonies {
			ids = append(ids, c.ID+"\t"+c.Kind+", "+stateOf(c))
		}
		return ids
	})
}

func tokenFingerprints(a *app, _ string) ([]string, cobra.ShellCompDirective) {
	return fromCluster(a, api.TokenList, nil, func(list api.Tokens) (prints []string) {
		for _, t := range list.Tokens {
			prints = append(prints, t.Fingerprint+"\t"+t.Name)
		}
		return prints
	})
}

// fromKeys offers what the first thousand keys under a prefix have.
func fromKeys(a *app, prefix string, texts func(api.Key) []string) (all []string, _ cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	s, err := a.connect(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer s.Close()
	list, _ := s.keys(ctx, api.KeyListQuery{Prefix: prefix, Limit: api.MaxPage}, api.MaxPage) // as many as answered in time
	for _, k := range list.Keys {
		all = append(all, texts(k)...)
	}
	slices.Sort(all)
	return slices.Compact(all), cobra.ShellCompDirectiveNoFileComp
}

// fromCluster asks, and offers nothing where there is no answer.
func fromCluster[A any](a *app, route string, query any, names func(A) []string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	s, err := a.connect(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer s.Close()
	var answer A
	if s.do(ctx, route, query, &answer) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names(answer), cobra.ShellCompDirectiveNoFileComp
}
