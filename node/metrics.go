package node

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// metrics are the node's figures for Prometheus, in a registry of its own:
// several nodes may live in one process.
type metrics struct {
	node     *Node
	registry *prometheus.Registry
	serve    http.Handler
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	device   *prometheus.CounterVec
	took     *prometheus.HistogramVec
}

func newMetrics(n *Node) *metrics {
	m := &metrics{
		node: n, registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keycustodian_api_requests_total", Help: "API requests by route and error code; an empty code is success."}, []string{"route", "code"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keycustodian_api_request_seconds", Help: "How long API requests took.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8)}, []string{"route"}),
		device: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keycustodian_device_operations_total", Help: "Device operations by kind and whether they failed."}, []string{"operation", "failed"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keycustodian_device_operation_seconds", Help: "How long device operations took.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10)}, []string{"operation"}),
	}
	m.registry.MustRegister(m.requests, m.latency, m.device, m.took, &gauges{n}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.serve = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	return m
}

func (m *metrics) answered(route, code string, took time.Duration) {
	m.requests.WithLabelValues(route, code).Inc()
	m.latency.WithLabelValues(route).Observe(took.Seconds())
}

func (m *metrics) operated(operation string, failed bool, took time.Duration) {
	m.device.WithLabelValues(operation, strconv.FormatBool(failed)).Inc()
	m.took.WithLabelValues(operation).Observe(took.Seconds())
}

// gauges reads the node's state when it is asked for.
type gauges struct{ node *Node }

// gauge is one figure and where it comes from.
type gauge struct {
	name, help string
	value      func(g *gaugeInput) float64
}

// gaugeInput is what all gauges of one scrape are read from.
type gaugeInput struct {
	view   *fsm.View
	log    logStats
	age    float64
	health api.Health
	keys   api.KeyCounts
	self   *fsm.Member
	back   RestoreProgress
	aside  int
	clocks clocks
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func gaugeTable() []gauge {
	return []gauge{
		{"keycustodian_ready", "1 where the node can use keys.", func(g *gaugeInput) float64 { return one(g.health.Ready) }},
		{"keycustodian_sealed", "1 where the node is sealed.", func(g *gaugeInput) float64 { return one(g.health.State == api.StateSealed) }},
		{"keycustodian_quorum", "1 where the node hears from a majority.", func(g *gaugeInput) float64 { return one(g.health.Quorum) }},
		{"keycustodian_state_age_seconds", "How long ago the node heard from a majority; -1 if never.", func(g *gaugeInput) float64 { return g.age }},
		{"keycustodian_raft_leader", "1 where this node leads.", func(g *gaugeInput) float64 { return one(g.log.State == "leader") }},
		{"keycustodian_raft_term", "Raft's term.", func(g *gaugeInput) float64 { return float64(g.log.Term) }},
		{"keycustodian_raft_applied_index", "Last log index applied.", func(g *gaugeInput) float64 { return float64(g.log.AppliedIndex) }},
		{"keycustodian_raft_last_index", "Last log index held.", func(g *gaugeInput) float64 { return float64(g.log.LastIndex) }},
		{"keycustodian_raft_lag", "Committed log entries that are not applied yet.", func(g *gaugeInput) float64 {
			return max(0, float64(g.log.CommitIndex)-float64(g.log.AppliedIndex))
		}},
		{"keycustodian_raft_store_bytes", "Size of the log's file.", func(g *gaugeInput) float64 { return float64(g.log.StoreBytes) }},
		{"keycustodian_clock_ahead_seconds", "How far this node's clock is ahead of the median of the members' clocks; negative behind.", func(g *gaugeInput) float64 {
			return -g.clocks.median.Seconds()
		}},
		{"keycustodian_log_time_ahead_seconds", "How far the log's time is ahead of the median of the members' clocks.", func(g *gaugeInput) float64 {
			return max(0, g.clocks.log.Seconds())
		}},
		{"keycustodian_command_version", "The newest version of commands that may be written.", func(g *gaugeInput) float64 {
			cluster, ok := g.view.Cluster()
			if !ok {
				return 0
			}
			return float64(cluster.Version)
		}},
		{"keycustodian_members", "Members of the cluster.", func(g *gaugeInput) float64 { return float64(g.view.Count(fsm.TableMembers)) }},
		{"keycustodian_keys", "Keys by name.", func(g *gaugeInput) float64 { return float64(g.keys.Keys) }},
		{"keycustodian_key_versions", "Key versions that are not destroyed.", func(g *gaugeInput) float64 { return float64(g.keys.Versions) }},
		{"keycustodian_key_versions_short", "Key versions on fewer devices than their policy wants.", func(g *gaugeInput) float64 { return float64(g.keys.Short) }},
		{"keycustodian_ceremonies_open", "Ceremonies that have not ended.", func(g *gaugeInput) float64 { return float64(len(openCeremonies(g.view))) }},
		{"keycustodian_restore_total", "Key versions that this node's device should hold.", func(g *gaugeInput) float64 { return float64(g.back.Total) }},
		{"keycustodian_restore_done", "Those that it holds, proven since the start.", func(g *gaugeInput) float64 { return float64(g.back.Done) }},
		{"keycustodian_restore_failed", "Those that could not be loaded or proven yet.", func(g *gaugeInput) float64 { return float64(g.back.Failed) }},
		{"keycustodian_device_aside", "Objects in the device that belong to no key.", func(g *gaugeInput) float64 { return float64(g.aside) }},
		{"keycustodian_share_healthy", "1 where this node's share of the proven epoch was unsealed and checked.", func(g *gaugeInput) float64 {
			proven, ok := g.view.Proven()
			return one(ok && g.self != nil && g.self.Share != nil && ofSharing(g.self.Share, proven) && g.self.Share.OK)
		}},
	}
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, gauge := range gaugeTable() {
		out <- prometheus.NewDesc(gauge.name, gauge.help, nil, nil)
	}
	out <- coverageDesc()
}

func coverageDesc() *prometheus.Desc {
	return prometheus.NewDesc("keycustodian_device_keys", "Key versions that a member's device is known to hold.", []string{"member"}, nil)
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	n := g.node
	in := &gaugeInput{view: n.view(), health: n.health(), age: n.face.stateAge(false)}
	in.clocks = n.face.clocks(in.view)
	in.keys = n.face.counts.count(in.view)
	if m := n.cluster.Load(); m != nil {
		in.log = m.log.Stats()
		in.self, _ = in.view.Member(n.id)
		in.back, in.aside = n.RestoreProgress(), len(n.device.slots.objects().Aside)
	}
	for _, gauge := range gaugeTable() {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(gauge.name, gauge.help, nil, nil), prometheus.GaugeValue, gauge.value(in))
	}
	covered := in.view.Covered()
	for m := range in.view.Members() {
		out <- prometheus.MustNewConstMetric(coverageDesc(), prometheus.GaugeValue, float64(covered[m.ID]), m.Name)
	}
}
