//! Routes: functions that have got their place, and in tests what they say of themselves.
//!
//! A route is a function under `#[utoipa::path(…)]`, which says the method and the path, put there by [`routes!`]. There is no
//! other way to add one (a test sees to it), so none goes undescribed.

use axum::{
    Router,
    handler::Handler,
    routing::{MethodFilter, on},
};
use utoipa::{Path, openapi::HttpMethod};

use super::AdminState;

#[derive(Default)]
pub(super) struct Routes {
    router: Router<AdminState>,
    #[cfg(test)]
    pub(super) description: utoipa::openapi::OpenApi,
}

/// The routes that these functions are, which are of the same module.
macro_rules! routes {
    ($($handler:ident),+ $(,)?) => {
        pastey::paste! {{
            let mut routes = $crate::admin::routes::Routes::default();
            $(routes.add::<[<__path_ $handler>], _, _>($handler);)+
            #[cfg(test)]
            {
                #[derive(utoipa::OpenApi)]
                #[openapi(paths($($handler),+))]
                struct Described;
                routes.description = <Described as utoipa::OpenApi>::openapi();
            }
            routes
        }}
    };
}

pub(super) use routes;

impl Routes {
    /// Puts `handler` where `P` says; [`routes!`] knows which one is whose.
    pub(super) fn add<P: Path, H: Handler<T, AdminState>, T: 'static>(&mut self, handler: H) {
        let methods = P::methods().into_iter().map(filter);
        if let Some(methods) = methods.reduce(MethodFilter::or) {
            let router = std::mem::take(&mut self.router);
            self.router = router.route(&P::path(), on(methods, handler));
        }
    }

    pub(super) fn merge(mut self, other: Self) -> Self {
        #[cfg(test)]
        self.description.merge(other.description);
        self.router = self.router.merge(other.router);
        self
    }

    /// The same routes with something around them.
    pub(super) fn wrap(
        mut self,
        wrapped: impl FnOnce(Router<AdminState>) -> Router<AdminState>,
    ) -> Self {
        self.router = wrapped(self.router);
        self
    }

    pub(super) fn into_router(self) -> Router<AdminState> {
        self.router
    }
}

fn filter(method: HttpMethod) -> MethodFilter {
    match method {
        HttpMethod::Get => MethodFilter::GET,
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Patch => MethodFilter::PATCH,
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Options => MethodFilter::OPTIONS,
        HttpMethod::Head => MethodFilter::HEAD,
        HttpMethod::Trace => MethodFilter::TRACE,
    }
}
