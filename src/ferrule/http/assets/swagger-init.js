"use strict";
const options = document.currentScript.dataset;
const here = (path) => new URL(path, document.baseURI).href;

SwaggerUIBundle({
  url: here(options.openapiUrl),
  oauth2RedirectUrl: here(options.oauth2RedirectUrl),
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: true,
  // The default validator is another host's.
  validatorUrl: null,
});
