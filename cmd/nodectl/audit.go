package main

import (
	"io"
	"runtime/debug"

	"github.com/keycustodian/keycustodian/node/api"
	"github.com/spf13/cobra"
)

func (a *app) auditCommand() *cobra.Command {
	var query api.AuditQuery
	c := &cobra.Command{
		Use: "audit", Short: "print the audit records, oldest first", Args: cobra.NoArgs,
		Long: `Prints the hash-chained records of every accepted change. Uses of keys are not
among them: the node that did or refused one writes it to its own log, counted and
every 10 seconds as "key uses", or with --log-level debug each one as "key use".
A node that is killed loses the uses of the last 10 seconds.`,
		Example: "  nodectl audit --after 1000 -o json",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.context(c)
			defer cancel()
			if query.Limit < 0 {
				return usage("--limit is 0 or more")
			}
			s, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer s.end(ctx)
			all := api.Audit{Records: []api.AuditRecord{}}
			limit := query.Limit
			for {
				query.Limit = api.MaxPage
				if limit > 0 {
					query.Limit = min(limit-len(all.Records), api.MaxPage)
				}
				var page api.Audit
				if err := s.do(ctx, api.AuditList, query, &page); err != nil {
					return err
				}
				all.Records, all.Head, all.Next = append(all.Records, page.Records...), page.Head, page.Next
				if page.Next <= query.After || limit > 0 && len(all.Records) >= limit {
					break
				}
				query.After = page.Next
			}
			return a.show(all, func(w io.Writer) {
				row(w, "SEQ", "AT", "ACTION", "TARGET", "ACTOR", "NODE", "DETAIL")
				for _, r := range all.Records {
					row(w, r.Seq, when(r.At), r.Action, r.Target, short(r.Actor), short(r.Node), r.Detail)
				}
			})
		},
	}
	c.Flags().Uint64Var(&query.After, "after", 0, "begin after this `SEQ`")
	c.Flags().IntVar(&query.Limit, "limit", 0, "at most this `MANY`; 0 is all")
	return c
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the program's version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := version()
			return a.show(map[string]string{"version": v}, func(w io.Writer) { row(w, v) })
		},
	}
}

// version is what the build recorded about itself.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
