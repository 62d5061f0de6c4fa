package node

import (
	"context"
	"maps"
	"net/http"

	"github.com/keycustodian/keycustodian/node/api"
)

// endpoints are what answers each route, by the route's name.
func endpoints() map[string]endpoint {
	all := map[string]endpoint{}
	for _, part := range []map[string]endpoint{
		healthEndpoints(), clusterEndpoints(), peopleEndpoints(), deviceEndpoints(), ceremonyEndpoints(), keyEndpoints(), useEndpoints(),
	} {
		maps.Copy(all, part)
	}
	return all
}

func healthEndpoints() map[string]endpoint {
	health := look(func(_ context.Context, a *asked) (api.Health, error) { return a.node.health(), nil })
	return map[string]endpoint{
		api.HealthAlive: health, api.HealthReady: health, api.HealthState: health,
		api.OpenAPI: text(func(_ context.Context, w http.ResponseWriter, a *asked) error {
			a.face.heads(w, a.ageOf())
			w.Header().Set("Content-Type", api.TypeJSON)
			w.Write(api.Document())
			return nil
		}),
		api.Metrics: text(func(_ context.Context, w http.ResponseWriter, a *asked) error {
			a.face.heads(w, a.ageOf())
			a.face.metrics.serve.ServeHTTP(w, a.http)
			return nil
		}),
		api.WhoAmI: look(func(_ context.Context, a *asked) (api.Identity, error) { return whoAmI(a), nil }),
	}
}
